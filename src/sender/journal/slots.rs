//! The slots that recvmmsg fills: message headers, addresses, control messages and payloads, in the journal
//! file.
//!
//! The kernel writes the length of a slot last. Each slot is armed with a length that no datagram has. So it
//! counts as empty until the kernel has filled all of it, even if the process dies in the call.
//!
//! | part | bytes each | content |
//! |---|---|---|
//! | headers | 64 | `struct mmsghdr`: pointers (invalid in the next process), lengths, flags |
//! | vectors | 16 | `struct iovec` |
//! | names | 128 | `struct sockaddr_storage`: the exporter |
//! | controls | 128 | control messages ([`crate::sender::journal::control`]) |
//! | payloads | 65,536 | the datagram |

#![expect(unsafe_code, reason = "a mapping is handed to the kernel")]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings start on a page, and every part of them at a multiple of 16"
)]

use core::mem::offset_of;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;
use std::os::fd::AsFd;

use libc::{iovec, mmsghdr, msghdr};
use nf_transport_core::datagram::with_scope;

use crate::limits::{JOURNAL_SLOT_SIZE, JOURNAL_SLOTS};
use crate::sender::journal::bus_error::Backing;
use crate::sender::journal::control::AncillaryData;
use crate::sender::journal::mapping::Mapping;
use crate::sender::journal::recvmmsg::recvmmsg;
use crate::sender::journal::shared_file::SharedFile;

const HEADER: usize = size_of::<mmsghdr>();
const VECTOR: usize = size_of::<iovec>();
const NAME: usize = 128;
const CONTROL: usize = 128;

const VECTORS_AT: usize = JOURNAL_SLOTS * HEADER;
const NAMES_AT: usize = VECTORS_AT + JOURNAL_SLOTS * VECTOR;
const CONTROLS_AT: usize = NAMES_AT + JOURNAL_SLOTS * NAME;
const PAYLOADS_AT: usize = (CONTROLS_AT + JOURNAL_SLOTS * CONTROL).next_multiple_of(4096);

/// The length in an empty slot.
const EMPTY: u32 = u32::MAX;

/// The length in a slot whose datagram is denied.
const DENIED: u32 = u32::MAX - 1;

const LENGTH_AT: usize = offset_of!(mmsghdr, msg_len);
const NAME_LENGTH_AT: usize = offset_of!(mmsghdr, msg_hdr) + offset_of!(msghdr, msg_namelen);
const CONTROL_LENGTH_AT: usize = offset_of!(mmsghdr, msg_hdr) + offset_of!(msghdr, msg_controllen);

/// The length of all slots in bytes.
pub(super) fn total_len() -> usize {
    PAYLOADS_AT + JOURNAL_SLOTS * JOURNAL_SLOT_SIZE
}

/// One filled slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilledSlot<'a> {
    /// The source address.
    pub(crate) exporter: SocketAddr,
    /// The destination address, if the kernel sent it.
    pub(crate) local: Option<IpAddr>,
    /// The arrival time, if the kernel sent it.
    pub(crate) arrival: Option<nf_transport_core::datagram::Timestamp>,
    /// The drop counter of the socket at that time, if the kernel sent it.
    pub(crate) dropped: Option<u32>,
    /// The payload.
    pub(crate) payload: &'a [u8],
}

/// The content of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotEntry<'a> {
    /// A datagram.
    Filled(FilledSlot<'a>),
    /// A datagram that is denied.
    Denied,
    /// A malformed datagram, which only a damaged file has.
    Damaged,
    /// Empty, like all slots after it.
    Empty,
}

/// The slots of a journal.
#[derive(Debug)]
pub(crate) struct Slots {
    map: Mapping,
    /// The backing of the pages for which `used` is valid.
    backing: Backing,
    /// The number of first slots that may have changed since they were armed. The others are armed and empty.
    used: usize,
}

impl Slots {
    pub(super) fn map(file: SharedFile, offset: u64) -> io::Result<Self> {
        let map = Mapping::map(file, offset, total_len())?;
        Ok(Self { map, backing: Backing::File, used: JOURNAL_SLOTS })
    }

    pub(crate) fn backing(&self) -> Backing {
        self.map.backing()
    }

    pub(crate) fn move_to_memory(&self) -> io::Result<()> {
        self.map.move_to_memory()
    }

    /// Returns `true` if memory has replaced the file since the last call. Then any slot may have changed.
    fn was_moved(&mut self) -> bool {
        let backing = self.map.backing();
        let was_moved = backing != self.backing;
        if was_moved {
            self.backing = backing;
            self.used = JOURNAL_SLOTS;
        }
        was_moved
    }

    /// Empties all slots.
    pub(crate) fn clear(&mut self) {
        self.was_moved();
        self.clear_used();
        if self.was_moved() {
            self.clear_used();
        }
    }

    fn clear_used(&mut self) {
        for slot in 0..self.used {
            self.put(slot * HEADER + LENGTH_AT, &EMPTY.to_ne_bytes());
        }
    }

    /// Receives waiting datagrams of `socket`, at most one per slot. Returns their number. All slots must be
    /// empty.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.arm();
        if self.was_moved() {
            self.clear_used();
            self.arm();
        }
        let count = u32::try_from(JOURNAL_SLOTS).unwrap_or_default();
        // SAFETY: `arm` has made every header point to its own parts of this mapping, which `self` borrows
        // exclusively; the mapping starts with the headers and is page-aligned.
        let received = unsafe { recvmmsg(socket, self.map.as_mut_ptr().cast(), count) };
        // The call may have ended in the middle of one more slot.
        self.used = received.as_ref().map_or(0, |count| *count).saturating_add(1).min(JOURNAL_SLOTS);
        if received.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT)) {
            // Where a process would get SIGBUS, the system call fails instead. The kernel counts the current
            // datagram as dropped.
            self.map.move_to_memory()?;
        }
        received
    }

    /// Points the header of each used slot to its vector, name and control buffer, and the vector to the
    /// payload.
    fn arm(&mut self) {
        let base = self.map.as_mut_ptr();
        for slot in 0..self.used {
            let at = |part: usize, size: usize| base.wrapping_add(part + slot * size);
            let vector =
                iovec { iov_base: at(PAYLOADS_AT, JOURNAL_SLOT_SIZE).cast(), iov_len: JOURNAL_SLOT_SIZE };
            let vector_at = at(VECTORS_AT, VECTOR).cast::<iovec>();
            let header_at = at(0, HEADER).cast::<mmsghdr>();
            // SAFETY: both places lie inside the mapping, are aligned (the parts start at multiples of 16)
            // and overlap nothing else; the types are plain data.
            unsafe {
                vector_at.write(vector);
                (*header_at).msg_hdr = msghdr {
                    msg_name: at(NAMES_AT, NAME).cast(),
                    msg_namelen: u32::try_from(NAME).unwrap_or_default(),
                    msg_iov: vector_at,
                    msg_iovlen: 1,
                    msg_control: at(CONTROLS_AT, CONTROL).cast(),
                    msg_controllen: CONTROL,
                    msg_flags: 0,
                };
            }
        }
    }

    /// Returns the content of `slot`. Slots past the last one are empty.
    pub(crate) fn get(&self, slot: usize) -> SlotEntry<'_> {
        self.read(slot, &mut LastName::default())
    }

    /// Iterates over the content of the slots up to the first empty one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = SlotEntry<'_>> {
        let mut last = LastName::default();
        let entries = (0..).map(move |slot| self.read(slot, &mut last));
        entries.take_while(|entry| *entry != SlotEntry::Empty)
    }

    fn read<'a>(&'a self, slot: usize, last: &mut LastName<'a>) -> SlotEntry<'a> {
        match self.length(slot) {
            None => SlotEntry::Empty,
            Some(DENIED) => SlotEntry::Denied,
            Some(length) => self.filled(slot, length, last).map_or(SlotEntry::Damaged, SlotEntry::Filled),
        }
    }

    /// Returns the length of the longest payload in bytes; 0 if there is none.
    pub(crate) fn longest(&self) -> usize {
        let lengths = (0..JOURNAL_SLOTS).map_while(|slot| self.length(slot));
        usize::try_from(lengths.filter(|length| *length != DENIED).max().unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// Returns the length in `slot`, unless it is empty.
    fn length(&self, slot: usize) -> Option<u32> {
        let length = (slot < JOURNAL_SLOTS).then(|| self.word(slot * HEADER + LENGTH_AT)).flatten();
        length.filter(|length| *length != EMPTY)
    }

    /// Marks the datagram in `slot` as denied.
    pub(crate) fn deny(&mut self, slot: usize) {
        self.put(slot * HEADER + LENGTH_AT, &DENIED.to_ne_bytes());
    }

    fn filled<'a>(&'a self, slot: usize, length: u32, last: &mut LastName<'a>) -> Option<FilledSlot<'a>> {
        let header = slot * HEADER;
        let length = usize::try_from(length).ok().filter(|length| *length <= JOURNAL_SLOT_SIZE)?;
        let name_length = usize::try_from(self.word(header + NAME_LENGTH_AT)?).ok()?.min(NAME);
        let control_length = usize::try_from(self.word(header + CONTROL_LENGTH_AT)?).ok()?.min(CONTROL);
        let details = AncillaryData::parse(self.part(CONTROLS_AT + slot * CONTROL, control_length)?);
        Some(FilledSlot {
            exporter: last.parse(self.part(NAMES_AT + slot * NAME, name_length)?)?,
            local: details.local,
            arrival: details.arrival,
            dropped: details.dropped,
            payload: self.part(PAYLOADS_AT + slot * JOURNAL_SLOT_SIZE, length)?,
        })
    }

    fn part(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.map.bytes().get(at..at + length)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.part(at, 4)?.try_into().ok()?))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.map.bytes_mut().get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// The last parsed name. Datagrams of one exporter mostly follow each other.
#[derive(Default)]
struct LastName<'a> {
    name: &'a [u8],
    exporter: Option<SocketAddr>,
}

impl<'a> LastName<'a> {
    fn parse(&mut self, name: &'a [u8]) -> Option<SocketAddr> {
        if name != self.name || name.is_empty() {
            *self = Self { name, exporter: parse_name(name) };
        }
        self.exporter
    }
}

/// Parses a `struct sockaddr_in` or `sockaddr_in6`. A mapped IPv4 address becomes IPv4; a link-local address
/// keeps the number of its interface.
fn parse_name(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(name.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    let address: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(name.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(name.get(8..24)?).ok()?).to_canonical(),
        _ => return None,
    };
    let scope = name.get(24..28).and_then(|scope| Some(u32::from_ne_bytes(scope.try_into().ok()?)));
    Some(with_scope(SocketAddr::new(address, port), scope.unwrap_or(0)))
}
