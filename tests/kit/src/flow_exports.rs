//! softflowd's exports of a capture and the batches made from them, to measure compression.
//!
//! The environment variable `NF_TRANSPORT_CAPTURES` may name a directory of real captures; `make captures`
//! downloads some to target/captures. Their packets are merged as if all captures had started at the same
//! time on one link. Without the variable the kit generates a capture.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{BootTime, Datagram, Timestamp};
use nf_transport_core::flow_layout::FlowRun;
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::{Position, StreamId};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

use crate::netflow_tools::{export, write_capture};

/// Stream id of all batches made here.
pub const STREAM: StreamId = StreamId([7; 16]);

/// Longest capture that is used. Longer ones have gaps in which all flows expire.
const LONGEST: Duration = Duration::from_secs(7200);

/// Bytes kept of each packet: enough for all headers.
const SNAPLEN: usize = 128;

/// Writes a capture to `directory`. Returns its path and a description.
pub fn capture(directory: &Path) -> (PathBuf, String) {
    let path = directory.join("capture.pcap");
    if let Some(real) = std::env::var_os("NF_TRANSPORT_CAPTURES") {
        let captures = merge(Path::new(&real), &path);
        return (path, format!("{captures} real captures, as if taken at the same time on one link"));
    }
    write_capture(&path, 6000);
    (path, "no real capture, but a generated one: 6,000 flows, each in one direction".to_owned())
}

/// Merges all captures in `from` as if they had started at the same time. Returns the number of captures.
fn merge(from: &Path, to: &Path) -> usize {
    let mut files: Vec<_> = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // Captures that are damaged on purpose are not traffic.
    files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with("fuzz"));
    let captures: Vec<_> = files.iter().filter_map(|file| packets(file)).collect();
    assert!(!captures.is_empty(), "no captures of Ethernet in {}", from.display());
    let count = captures.len();
    let mut packets: Vec<_> = captures.into_iter().flatten().collect();
    packets.sort_by_key(|(time, _, _)| *time);
    let mut writer = PcapWriter::new(File::create(to).unwrap()).unwrap();
    for (time, length, data) in packets {
        let time = Duration::from_secs(1_700_000_000) + time;
        writer.write_packet(&PcapPacket::new_owned(time, length, data)).unwrap();
    }
    count
}

/// Returns time since the first packet, length on the wire, and the first bytes of each packet. Returns
/// `None` unless the file is a short capture of Ethernet.
fn packets(file: &Path) -> Option<Vec<(Duration, u32, Vec<u8>)>> {
    let mut reader = PcapReader::new(File::open(file).ok()?).ok()?;
    if reader.header().datalink != DataLink::ETHERNET {
        return None;
    }
    let mut packets = Vec::new();
    while let Some(Ok(packet)) = reader.next_packet() {
        let kept = &packet.data[..packet.data.len().min(SNAPLEN)];
        packets.push((packet.timestamp, packet.orig_len, kept.to_vec()));
    }
    let first = packets.iter().map(|(time, _, _)| *time).min()?;
    for (time, _, _) in &mut packets {
        *time -= first;
    }
    packets.iter().all(|(time, _, _)| *time <= LONGEST).then_some(packets)
}

/// Returns the datagrams with which softflowd exports `capture` in this version (5, 9, or 10 for IPFIX).
pub fn exported(capture: &Path, version: u8) -> Vec<Vec<u8>> {
    let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&inbox).set_recv_buffer_size(64 << 20).unwrap();
    let target = inbox.local_addr().unwrap();
    let receiving = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let received =
            std::iter::from_fn(|| inbox.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        received.take_while(|payload| !payload.is_empty()).collect::<Vec<_>>()
    });
    export(capture, version, &[target]);
    // softflowd has exited, so this is the last datagram.
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], target).unwrap();
    receiving.join().unwrap()
}

/// Datagrams, and the places of the flow records in each.
pub struct Exports {
    payloads: Vec<Vec<u8>>,
    flows: Vec<Vec<FlowRun>>,
}

impl Exports {
    /// Finds the flow records in the datagrams of one exporter.
    pub fn new(payloads: Vec<Vec<u8>>) -> Self {
        let mut table = ExporterTable::default();
        let flows = (0..).zip(&payloads).map(|(number, payload)| {
            let mut flows = Vec::new();
            table.note_flows(&datagram(number, payload), BootTime::default(), &mut flows);
            flows
        });
        let flows = flows.collect();
        Self { payloads, flows }
    }

    /// Returns the total length of all payloads, in bytes.
    pub fn raw(&self) -> usize {
        self.payloads.iter().map(Vec::len).sum()
    }

    pub fn payloads(&self) -> &[Vec<u8>] {
        &self.payloads
    }

    /// Packs the datagrams into batches. A batch ends when it is full or holds `most` datagrams.
    /// The columnar form is used only with [`Compression::Columnar`], whereas nf-sender uses it wherever
    /// possible.
    pub fn batches(&self, compression: Compression, most: u32) -> Vec<Batch> {
        let mut builder = BatchBuilder::new(STREAM, compression);
        let mut batches = Vec::new();
        let mut taken = 0;
        for ((number, payload), flows) in (0..).zip(&self.payloads).zip(&self.flows) {
            let datagram = datagram(number, payload);
            let flows = if compression == Compression::Columnar { flows.as_slice() } else { &[] };
            if taken == most || builder.push_flows(&datagram, flows) == Err(PushError::Full) {
                batches.extend(builder.finish(Position(0)));
                builder.push_flows(&datagram, flows).unwrap();
                taken = 0;
            }
            taken += 1;
        }
        batches.extend(builder.finish(Position(0)));
        batches
    }
}

/// Returns datagram `number`. The arrivals are a few microseconds apart, as in a burst.
fn datagram(number: u64, payload: &[u8]) -> Datagram<'_> {
    let exporter = SocketAddr::from(([192, 0, 2, 1], 50_123));
    let local = SocketAddr::from(([192, 0, 2, 9], 2055));
    let arrival = Timestamp(1_700_000_000_000_000_000 + number * 31_337 + number * number % 7919);
    Datagram { exporter, local, arrival, payload }
}

/// Returns the total length of all batches with their headers, in bytes.
pub fn wire(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.bytes().len()).sum()
}
