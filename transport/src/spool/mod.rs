//! The spool: batches on disk until the receiver acknowledges them.
//!
//! A [`Spool`] owns the files of one directory. It opens no socket, reads no clock and starts no thread that
//! outlives a call: callers pass the current moment. Two invariants hold:
//!
//! - The extents (segments and gaps) follow each other without a hole.
//! - A position that was acknowledged, dropped or found damaged is never assigned again.
//!
//! | file | content |
//! |---|---|
//! | `00000000000000000042.segment` | batches from position 42 on (format: [`segment`], [`crate::batch`]) |
//! | `00000000000000000042-00000000000000000050-spool-full.gap` | dropped positions and the reason; empty |
//! | `00000000000000000042.thinned` | marker of a thinned segment ([`thinning`]); empty |
//! | `thinned.new` | thinned segment that is not complete yet |
//! | `spare` | empty file, which becomes a segment when the disk has no inodes left |
//! | `stream` | stream id, state of the numbering, and the runs that sent the stream (format: [`identity`]) |
//! | `damaged/` | copies of damaged pieces, within a bound; nothing reads them ([`copies`]) |
//! | `newer/` | segments of a newer version, which imports them again ([`preserve`], [`reimport`]) |
//!
//! The types are defined below the files that implement the operations, so no files import each other in a
//! circle.

#[cfg(any(test, feature = "testing"))]
pub mod as_newer;
#[cfg(test)]
pub(crate) mod memory_disk;

// Values.
pub mod disk;
mod extent;
mod file_totals;
pub mod identity;
mod item;
pub mod lineage;
mod name;
mod policy;
mod segment;

// State.
mod active;
mod clocks;
mod open_segments;
mod preserved;
mod reader;
mod room;
mod scan;
mod state;

// Operations.
mod age;
mod append;
mod copies;
mod dropping;
mod gaps;
mod open;
mod preserve;
mod reimport;
mod removal;
mod rotation;
mod runs;
mod thinning;
mod upkeep;

pub use append::AppendError;
pub use clocks::WrongClock;
pub use file_totals::FileTotals;
pub use identity::LastRun;
pub use item::{Damage, Item, Newer};
pub use lineage::{Divergence, Lineage, OwnStream, StreamSecret};
pub use name::{SUBDIRECTORIES, is_segment};
pub use open::{Opened, Survey, open, survey};
pub use policy::{MinFree, Policy, WhenFull};
pub use preserved::Preserved;
pub use reader::SegmentReader;
pub use reimport::{Broken, ImportError, Reimported};
pub use room::{Room, Yielding};
pub use segment::{Begun, SEGMENT_HEADER_LEN};
pub use state::Spool;
pub use thinning::{Candidate, Sieve, Thinned, ThinnedSegment, ThinningJob};
pub use upkeep::SyncJob;

#[cfg(test)]
mod tests;
