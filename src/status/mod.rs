//! The status of a running service: its figures, the control socket, the tables for people, and the metrics.

mod certificates;
pub mod control;
mod figures;
mod metrics;
mod receiver;
mod sender;
mod show;

pub use crate::status::certificates::{CertificateStatus, RevocationStatus};
pub use crate::status::control::apply::{apply_configuration, reload};
pub use crate::status::control::{ControlError, ControlSocket, Reply, Request, request, serving_process};
pub use crate::status::figures::{Tally, count_of, name_dropped, name_first};
pub use crate::status::metrics::http::serve_metrics;
pub use crate::status::metrics::{receiver_metrics, sender_metrics};
pub use crate::status::receiver::{
    CollectorState, CollectorStatus, ConfusedStatus, DeniedExporter, LateStatus, PeerState, PeerStatus,
    ReceiverStatus, RefusedStatus, SeenAs, SenderTotals, UnmatchedStatus,
};
pub use crate::status::sender::{
    DeniedStatus, DroppedCounts, DroppedStatus, ExporterStatus, JournalStatus, KeptFiles, LinkState, Queued,
    RecoveredStatus, SenderStatus, SocketStatus,
};
pub use crate::status::show::pace::{Earlier, Pace, to_f64};
pub use crate::status::show::receiver::render_receiver;
pub use crate::status::show::sender::render_sender;
pub use crate::status::show::units::span;
pub use crate::status::show::{StatusFormat, show};

#[cfg(test)]
mod samples;
