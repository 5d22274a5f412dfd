//! Message ids for the journal (`MESSAGE_ID`, systemd.journal-fields(7)) of events that may require an
//! operator, or that an operator waits for. `catalog/` explains each of them for `journalctl -x`. A test
//! compares the two lists.

/// Message ids of nf-sender.
pub mod sender {
    /// The configuration is invalid: the service does not start, and is not restarted (exit 78).
    pub const CONFIGURATION_REFUSED: &str = "8052ba71f52440638f0618e2369180e2";
    /// A changed configuration was applied.
    pub const RELOADED: &str = "0c103e71b66d4831a7547090ece9f171";
    /// A changed configuration was rejected; the previous one stays in effect.
    pub const NOT_RELOADED: &str = "3694d808624d4355a3fc709930200ab9";
    /// The service is hung: the watchdog is no longer fed.
    pub const LOOP_STUCK: &str = "9c8fd6b108424145a985b12246499d4d";
    /// The certificate of this machine expires soon, or has expired.
    pub const CERTIFICATE_ENDS: &str = "1b92dca4eacf45a495b05c7c8901f9c4";
    /// A session with a receiver began.
    pub const CONNECTED: &str = "09d3c0784c88401c9ef43590c847c0ea";
    /// No receiver is reachable; datagrams wait in the spool.
    pub const NOT_CONNECTED: &str = "a8f1a27eb9cc4bbc88a0983afaf57f95";
    /// A receiver rejected the connection; datagrams wait in the spool.
    pub const REFUSED: &str = "1013e88b49b8450f9aae05c9abc85483";
    /// A session began, but TCP cannot deliver the data to the receiver: the path loses large packets.
    pub const STALLED: &str = "fd4fe2599cf347ee9c1e2d60d3d5ea8a";
    /// The spool has reached one of its limits.
    pub const SPOOL_FULL: &str = "23daa407b425456293a4c53d6bb7e85a";
    /// The spool has no room, or room for less than an hour.
    pub const ROOM_SHORT: &str = "2dfdaf6c81614548adfe4a92051b2c74";
    /// Writing or syncing the spool failed.
    pub const SPOOL_FAILS: &str = "283dc6132752406490337810168cabfb";
    /// The spool was rolled back or cloned; its queued datagrams go out as a new stream.
    pub const STREAM_REPLACED: &str = "3f0c0a4bb6f94f7b8b3a6f7c1c4e2d19";
    /// A piece of the spool is damaged and was quarantined.
    pub const SPOOL_DAMAGED: &str = "d059b1b836084a5fb65d18ee08244693";
    /// Datagrams were dropped by the spool's limits.
    pub const DATAGRAMS_DROPPED: &str = "38e07dbeaac5463f823434eb5a026855";
    /// The spool contains data of a newer version, which is kept and not sent.
    pub const NEWER_FORMAT: &str = "34efc2fa7cc14df493c74998884fa2b2";
    /// The journal is in memory only: its file failed, or there is no space for it.
    pub const JOURNAL_IN_MEMORY: &str = "27a729b0a9e044b590eb0daf30249a83";
    /// The journal of a killed run is missing or damaged.
    pub const JOURNAL_LOST: &str = "8f28317d7ff04111b6e3380d4748c636";
    /// The system clock was set, or is wrong.
    pub const CLOCK_SET: &str = "e0a30076483f4bababe3ef1e23015241";
    /// The program met an impossible state, or panicked.
    pub const INTERNAL_ERROR: &str = "e2b8c94d7a1f4f0b8c3d5e6f70819a2b";
    /// The kernel dropped datagrams because the receive buffer of a socket was full.
    pub const KERNEL_DROPS: &str = "5d0b1f0f6d6a4f0e9f3f8a1f54b0c7a2";
    /// Datagrams arrived from exporters that are not allowed.
    pub const DENIED: &str = "b7f1c3d2a4e84c5b8d0e6f9a12c35d47";
    /// Losses of exporters cannot be counted by their sequence numbers.
    pub const EXPORTERS_UNUSABLE: &str = "08d504c7fd6740f4ba82356994d2a047";
    /// The kernel grants a smaller receive buffer than requested.
    pub const BUFFER_SMALL: &str = "c9139425b519454bb8f06ff3ff7f65bc";
}

/// Message ids of nf-receiver.
pub mod receiver {
    /// The configuration is invalid: the service does not start, and is not restarted (exit 78).
    pub const CONFIGURATION_REFUSED: &str = "12773916cf4041849c51110c5207b80a";
    /// A changed configuration was applied.
    pub const RELOADED: &str = "ddfead469b474c6ca5155c494492fb4e";
    /// A changed configuration was rejected; the previous one stays in effect.
    pub const NOT_RELOADED: &str = "6149671cf00548878c3a494c67acf077";
    /// The service is hung: the watchdog is no longer fed.
    pub const LOOP_STUCK: &str = "1051d220f6554a7795f5f6ce676120a7";
    /// The certificate of this machine expires soon, or has expired.
    pub const CERTIFICATE_ENDS: &str = "728d83726ed1458b93f92dcf8246cc34";
    /// A revocation list expires soon, or has expired.
    pub const REVOCATION_LIST_ENDS: &str = "d1ff7cc3d44449a5a2cd82cf49e7a462";
    /// A session with a sender began.
    pub const SESSION_BEGAN: &str = "e93ad38d720e46c195c5f98db79651b5";
    /// A session with a sender ended.
    pub const SESSION_ENDED: &str = "5703132608134380a63917dfa2febbe7";
    /// A session began, but no data of the sender arrives: the path loses large packets.
    pub const SENDER_UNHEARD: &str = "2e23608ab1114aaa9a95da0599b2e6c3";
    /// A connection claimed the stream of a sender without proof of its secret.
    pub const STREAM_NOT_PROVEN: &str = "b2d3e7c96a9d4c0f9e4b7a1d58f06c33";
    /// A connection was rejected because another sender with the same id is connected.
    pub const ID_IN_USE: &str = "6c1f0b7de2a84f35b9d04e7a93c5182d";
    /// A connection was rejected before it had a session.
    pub const REJECTED: &str = "30ff064bdb544be08fa25e9e9ecca558";
    /// A sender's spool was rolled back or cloned; its queued datagrams arrive as a new stream.
    pub const STREAM_REPLACED: &str = "7b1de0b4f9a94d07a9d64d0b5b7f7c55";
    /// A sender reported lost datagrams, dropped by its limits or by damage.
    pub const SENDER_LOST: &str = "a56912e227f04d7fa822e6b0c082ed48";
    /// The program met an impossible state, or panicked.
    pub const INTERNAL_ERROR: &str = "3f6d8a1c5b7e4920a8d4c6e1f0b2937d";
    /// Datagrams match no collector: they are acknowledged and not delivered.
    pub const UNMATCHED: &str = "c4a8e7d1f3b24e6a9b5c0d7e8f124a63";
    /// A collector is down; datagrams are held.
    pub const COLLECTOR_DOWN: &str = "64b11a6d7ac84b839de02833a25cbfbd";
    /// A collector is up again.
    pub const COLLECTOR_BACK: &str = "c27a6ff8bad54d9990d4b684c40a8a6f";
    /// Datagrams sent to a collector's socket are lost: it was full, or closed.
    pub const COLLECTOR_LOST: &str = "5d0c9d0e6a3f4a0c8f5f7b1f3c6a9e42";
    /// The kernel refuses to send some datagrams, which are dropped.
    pub const DATAGRAMS_REFUSED: &str = "fe9ad3d1b9b1467ab51f98af1f2ee8a0";
    /// Exporters with one observation domain and different templates reach a collector from one address.
    pub const EXPORTERS_CONFUSED: &str = "f5bb4fe67cdf4547b9b64d199f7daa40";
    /// A sender delivers datagrams of exporters outside of its prefixes.
    pub const EXPORTERS_DENIED: &str = "ccdbf427f8e04ea696908fb51984281d";
    /// The system clock was set.
    pub const CLOCK_SET: &str = "80e04d4baf0141e1ab35d04f19cad397";
    /// The name of a collector cannot be resolved; senders wait.
    pub const COLLECTOR_UNKNOWN: &str = "34af8518e5664512a521f261857bc12a";
}
