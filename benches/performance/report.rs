//! The report: tables of all measurements, on the terminal and in `docs/performance.md`.

mod cost;
mod expectations;
mod options;

use std::fmt::Write as _;
use std::path::Path;

use crate::modes::{GENERATOR, catch_up, compression, disk, exporters, ingest, rate, senders, start};
use crate::numbers::{grouped, short};
use crate::relay::Kind;
use crate::results::Results;
use crate::settings::Settings;
use crate::{machine, marks, plot};

/// A heading, how it was measured, and a table.
struct Section {
    title: &'static str,
    how: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Prints the tables that have rows.
pub(crate) fn print(results: &Results) {
    for section in sections(results) {
        println!("\n{}\n{}", section.title, aligned(&section.head, &section.rows));
    }
}

/// Writes `docs/performance.md` and its plot.
pub(crate) fn write(settings: &Settings, results: &Results) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let Settings { turns, probe, run, disk, backlog, .. } = settings;
    let mut page = format!(
        "# Performance\n\n`make bench` writes this page; `benches/performance/` is its source. \
         [profile.md](profile.md) describes where the time is spent. Generator, relay and a sink that \
         checks every byte share one machine. The figures are medians of {turns} turn(s); each turn \
         measured every relay once. Probes of a rate took {probe} s, runs at a given rate {run} s, that of \
         the disk {disk} s. The backlog was {backlog} MiB.\n\n{}\n",
        machine::description()
    );
    page += &expectations::section(results);
    page += "\n![Processor time per datagram, by rate and by number of exporters](performance.svg)\n";
    for section in sections(results) {
        let Section { title, how, head, rows } = section;
        write!(page, "\n## {title}\n\n{how}\n\n{}", markdown(&head, &rows)).unwrap();
    }
    std::fs::write(docs.join("performance.md"), page).unwrap();
    plot::draw(&docs.join("performance.svg"), results);
    println!("\nwritten: docs/performance.md, docs/performance.svg");
}

fn sections(results: &Results) -> Vec<Section> {
    let all = [
        rates,
        cost::costs,
        cost::to_plain_relay,
        cost::spaced_costs,
        cost::latencies,
        options::tls_and_compression,
        cost::by_max_delay,
        cost::idle_wake_ups,
        ingests,
        catch_ups,
        memory,
        by_exporters,
        by_senders,
        written,
        starts,
        compressed,
        cost::baselines,
    ];
    let mut sections: Vec<_> = all.iter().map(|section| section(results)).collect();
    sections.retain(|section| !section.rows.is_empty());
    sections.push(Section {
        title: "Marks",
        how: "A ratio is the median of the ratios of each turn.".to_owned(),
        head: words(&["measurement", "figure", "ratio or amount", "mark", ""]),
        rows: marks::rows(&marks::all(results)),
    });
    sections
}

fn rates(results: &Results) -> Section {
    let tee = results.median(rate::RATE, Kind::Nfacctd.name(), 0);
    let row = |kind: Kind| {
        let Some(rate) = results.median(rate::RATE, kind.name(), 0) else {
            return vec![called(kind), "not installed".to_owned(), String::new()];
        };
        let ratio = tee.map_or_else(String::new, |tee| short(rate / tee));
        vec![called(kind), at_least(results, kind.name()) + &grouped(rate), ratio]
    };
    let is_measured = results.has(rate::RATE);
    Section {
        title: "Loss-free rate",
        how: "Four exporters send NetFlow v5 datagrams of 1,464 bytes in bursts, one each millisecond. A \
              rate is reached if all datagrams arrive once, in order and unchanged, the last within 150 ms \
              of being sent. It is not reached if that fails twice. Bisection finds the highest rate. All \
              relays have the same receive buffer."
            .to_owned(),
        head: words(&["relay", "datagrams/s", "to nfacctd tee"]),
        rows: if is_measured { Kind::all().into_iter().map(row).collect() } else { Vec::new() },
    }
}

/// Returns a prefix for figures that are limited by the generator, not by the relay.
fn at_least(results: &Results, who: &'static str) -> String {
    let is_generator = results.median(GENERATOR, who, 0).is_some_and(|share| share > 0.5);
    if is_generator { "≥ ".to_owned() } else { String::new() }
}

fn ingests(results: &Results) -> Section {
    let row = |who| {
        let rate = results.median(ingest::INGEST, who, 0)?;
        Some(vec![who.to_owned(), at_least(results, who) + &grouped(rate)])
    };
    Section {
        title: "Ingest while the link is down",
        how: "The highest rate at which nothing is lost and all received datagrams are in the spool. The \
              bare loop only receives. The exporters send with GSO here."
            .to_owned(),
        head: words(&["", "datagrams/s"]),
        rows: [ingest::SENDER, ingest::BARE].into_iter().filter_map(row).collect(),
    }
}

fn catch_ups(results: &Results) -> Section {
    let row = |who: &str, name: &'static str| {
        Some(vec![who.to_owned(), grouped(results.median(catch_up::CATCH_UP, name, 0)?)])
    };
    Section {
        title: "Catching up",
        how: "nf-receiver starts when there is a backlog. The time is from the first to the last arrival at \
              the collector. The bare senders send prepared datagrams as fast as the collector receives \
              them without loss."
            .to_owned(),
        head: words(&["", "datagrams/s"]),
        rows: [catch_up::PAIR, catch_up::PLAIN, catch_up::GSO]
            .into_iter()
            .filter_map(|who| row(who, who))
            .collect(),
    }
}

fn memory(results: &Results) -> Section {
    let row = |who| {
        let topics = [catch_up::MEMORY_OWN, catch_up::MEMORY_FILE, catch_up::MEMORY_JOURNAL];
        let most = results.most(catch_up::MEMORY_PEAK, who, 0)?;
        let kinds = topics.map(|topic| results.median(topic, who, 0).map_or_else(String::new, short));
        Some([vec![who.to_owned(), short(most)], kinds.to_vec()].concat())
    };
    let idle = results.median(senders::IDLE, senders::RECEIVER, 100);
    let idle = idle.map_or_else(String::new, |idle| {
        format!(" Each of 100 idle senders uses {} KiB of nf-receiver's memory.", short(idle))
    });
    Section {
        title: "Memory",
        how: format!(
            "MiB. The peak is the highest of all turns while a backlog is built and delivered, and includes \
             the receive journal. The other columns are measured afterwards: private memory, the program \
             itself, and nf-sender's receive journal, a file in `/run` that survives a crash and of which \
             little is mapped.{idle}"
        ),
        head: words(&["", "peak", "private", "program", "journal"]),
        rows: ["nf-sender", "nf-receiver"].into_iter().filter_map(row).collect(),
    }
}

fn by_exporters(results: &Results) -> Section {
    let row = |kind: Kind| {
        let series = results.series(exporters::EXPORTERS, kind.name());
        (!series.is_empty()).then(|| [vec![called(kind)], figures(&series)].concat())
    };
    Section {
        title: "By number of exporters",
        how: format!(
            "Core-microseconds per datagram at {} datagrams/s in all. Each burst comes from the next exporter.",
            grouped(exporters::RATE)
        ),
        head: [words(&["relay"]), exporters::COUNTS.map(|count| grouped(u64::from(count))).to_vec()].concat(),
        rows: exporters::KINDS.into_iter().filter_map(row).collect(),
    }
}

fn by_senders(results: &Results) -> Section {
    let row = |who: &'static str| {
        let series = results.series(senders::SENDERS, who);
        (!series.is_empty()).then(|| [vec![who.to_owned()], figures(&series)].concat())
    };
    Section {
        title: "By number of senders",
        how: format!(
            "Core-microseconds of nf-receiver per datagram at {} datagrams/s in all. Each burst comes from \
             the next sender. nfacctd receives from as many exporters directly.",
            grouped(senders::RATE)
        ),
        head: [words(&[""]), senders::COUNTS.map(|count| grouped(u64::from(count))).to_vec()].concat(),
        rows: [senders::RECEIVER, Kind::Nfacctd.name()].into_iter().filter_map(row).collect(),
    }
}

fn written(results: &Results) -> Section {
    let row = |who: &'static str| {
        let written = results.latest(disk::WRITTEN, who, 0)?;
        let figure = |topic| results.latest(topic, who, 0).map_or_else(|| "no strace".to_owned(), short);
        Some(vec![who.to_owned(), short(written), figure(disk::FORCED), figure(disk::CALLS)])
    };
    Section {
        title: "Disk",
        how: "Bytes that both daemons cause to be written to storage for each byte of payload, at 5,000 \
              datagrams/s on a healthy link. The other columns are the bytes that nf-sender syncs, and its \
              sync calls, in a traced run."
            .to_owned(),
        head: words(&["", "written per byte", "synced per byte", "sync calls"]),
        rows: [disk::IN_MEMORY, disk::BESIDE].into_iter().filter_map(row).collect(),
    }
}

fn starts(results: &Results) -> Section {
    let series = results.series(start::START, start::SENDER);
    let row = |(segments, milliseconds): (u64, f64)| vec![grouped(segments), short(milliseconds)];
    Section {
        title: "Start",
        how: "Milliseconds from the start of nf-sender to READY, by the number of segments in its spool."
            .to_owned(),
        head: words(&["segments", "ms"]),
        rows: series.into_iter().map(row).collect(),
    }
}

fn compressed(results: &Results) -> Section {
    let row = |version: (u8, &str), kind: &'static str| {
        let figure = |topic| results.median(topic, kind, u64::from(version.0)).map(short);
        let topics = [compression::FULL, compression::LONE, compression::ENCODE, compression::DECODE];
        let figures = topics.into_iter().map(figure).collect::<Option<Vec<_>>>()?;
        Some([vec![format!("{}, {kind}", version.1)], figures].concat())
    };
    let kinds = [compression::NONE, compression::ZSTD, compression::COLUMNAR];
    let rows = compression::VERSIONS.into_iter().flat_map(|version| kinds.map(|kind| row(version, kind)));
    Section {
        title: "Compression",
        how: format!(
            "Bytes of batches for each byte of payload that softflowd exports, in full batches and with one \
             datagram in each. Speeds are in GB/s of payload on one core. The material is {}.",
            compression::captured().unwrap_or("nothing")
        ),
        head: words(&["", "full batches", "single datagrams", "encoding, GB/s", "decoding, GB/s"]),
        rows: rows.flatten().collect(),
    }
}

/// The name of a relay in tables with several relays.
fn called(kind: Kind) -> String {
    if let Kind::Pair(_) | Kind::Baseline(_) = kind {
        format!("the pair, {}", kind.name())
    } else {
        kind.name().to_owned()
    }
}

fn figures(series: &[(u64, f64)]) -> Vec<String> {
    series.iter().map(|(_, figure)| short(*figure)).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    // All columns but the first are numbers.
    let rule: Vec<_> = (0..head.len()).map(|at| if at == 0 { "---" } else { "---:" }.to_owned()).collect();
    line(head) + &line(&rule) + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// A table for the terminal.
fn aligned(head: &[String], rows: &[Vec<String>]) -> String {
    let all = || std::iter::once(head).chain(rows.iter().map(Vec::as_slice));
    let width = |at: usize| all().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let line = |row: &[String]| {
        let cell = |(at, text): (usize, &String)| {
            let width = width(at);
            if at == 0 { format!("  {text:<width$}") } else { format!("  {text:>width$}") }
        };
        row.iter().enumerate().map(cell).collect::<String>() + "\n"
    };
    all().map(line).collect()
}
