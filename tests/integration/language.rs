//! The language of comments and documents: plain words, short sentences. CONTRIBUTING.md has the rules.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::floors::imports::sources;

/// Most uses of "what" in 1,000 words.
const WHAT_MAX: f64 = 3.0;

/// Longest median sentence, in words.
const SENTENCE_MAX: usize = 25;

/// Longest line of a source file, in characters.
const COLUMNS_MAX: usize = 110;

/// Turns that have a plain equivalent, and that.
const BANNED: [(&str, &str); 27] = [
    ("at the most", "at most"),
    ("at the least", "at least"),
    ("anew", "again"),
    ("of late", "recently"),
    ("for ever", "forever"),
    ("tells", "reports"),
    ("is told", "receives"),
    ("takes up", "applies"),
    ("took up", "recovered"),
    ("taken up", "applied"),
    ("let in", "authenticated"),
    ("lets in", "accepts"),
    ("turned away", "rejected"),
    ("strangers", "unauthenticated"),
    ("passed over", "skipped"),
    ("gives way", "is dropped"),
    ("stands above", "overrides"),
    ("is no good", "is invalid"),
    ("mended", "fixed"),
    ("goes round", "makes progress"),
    ("lies in", "is stored in"),
    ("lie in", "are stored in"),
    ("comes of", "results from"),
    ("whoever", "the peer that"),
    ("what waits", "queued datagrams"),
    ("what arrives", "incoming datagrams"),
    ("what is lost", "lost datagrams"),
];

/// Words that start no doc comment.
const NO_STARTS: [&str; 4] = ["What", "Whether", "How", "Whoever"];

/// Prose of one file: each line with its number.
struct Prose {
    path: PathBuf,
    lines: Vec<(usize, String)>,
}

impl Prose {
    /// The comments of a source file.
    fn of_code(path: &Path, text: &str) -> Self {
        Self::of_comments(path, text, "//")
    }

    /// The comments of a file in which they begin with `sign`.
    fn of_comments(path: &Path, text: &str, sign: &str) -> Self {
        let comment = |line: &str| {
            let rest = line.trim_start().strip_prefix(sign)?;
            Some(rest.trim_start_matches(['/', '!']).trim().to_owned())
        };
        Self::read(path, text.lines().map(|line| comment(line).unwrap_or_default()))
    }

    /// The text of a Markdown document without code blocks and tables.
    fn of_document(path: &Path, text: &str) -> Self {
        let mut is_code = false;
        Self::read(
            path,
            text.lines().map(|line| {
                let is_fence = line.starts_with("```");
                is_code ^= is_fence;
                let is_prose = !is_code && !is_fence && !line.starts_with("    ") && !line.starts_with('|');
                if is_prose {
                    line.trim_start_matches(['#', '-', '>', ' ']).to_owned()
                } else {
                    String::new()
                }
            }),
        )
    }

    /// The text of a manual page without macros.
    fn of_page(path: &Path, text: &str) -> Self {
        let plain = |line: &str| if line.starts_with('.') { String::new() } else { line.to_owned() };
        Self::read(path, text.lines().map(plain))
    }

    fn read(path: &Path, lines: impl Iterator<Item = String>) -> Self {
        let lines = lines.enumerate().map(|(at, line)| (at + 1, without_quotes(&line))).collect();
        Self { path: path.to_owned(), lines }
    }

    fn words(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.split_whitespace().count()).sum()
    }

    /// The lines with `turn` as words of their own.
    fn uses<'a>(&'a self, turn: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let found = move |(at, line): &'a (usize, String)| {
            holds(&line.to_lowercase(), turn).then_some((*at, line.as_str()))
        };
        self.lines.iter().filter_map(found)
    }

    /// The lengths of its sentences in words.
    fn sentences(&self) -> Vec<usize> {
        let paragraphs = self.lines.split(|(_, line)| line.is_empty());
        let text = |lines: &[(usize, String)]| {
            lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join(" ")
        };
        let mut lengths = Vec::new();
        for paragraph in paragraphs.map(text) {
            let ends = paragraph.replace(['!', '?'], ".");
            lengths.extend(ends.split(". ").map(|sentence| sentence.split_whitespace().count()));
        }
        lengths.retain(|words| *words > 2);
        lengths
    }
}

/// Replaces quoted text and code, which follow rules of their own.
fn without_quotes(line: &str) -> String {
    let mut plain = String::new();
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => {
                quote = None;
                plain.push('X');
            }
            Some(_) => {}
            None if c == '`' || c == '"' => quote = Some(c),
            None => plain.push(c),
        }
    }
    plain
}

fn holds(line: &str, turn: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(turn)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + turn.len()..].starts_with(is_word))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn code() -> Vec<(PathBuf, String)> {
    let folders = ["src", "transport/src", "tests", "benches", "examples", "fuzz/fuzz_targets"];
    let files = folders.iter().flat_map(|folder| sources(&root().join(folder)));
    files.map(|path| read(&path)).collect()
}

fn read(path: &Path) -> (PathBuf, String) {
    let text = std::fs::read_to_string(path).unwrap();
    (path.strip_prefix(root()).unwrap().to_owned(), text)
}

fn with_ending(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().ends_with(ending)).map(|path| read(&path)).collect()
}

/// Files for builds, packages and installations, whose comments begin with "#".
fn configurations() -> Vec<(PathBuf, String)> {
    let single = [
        "Cargo.toml",
        "transport/Cargo.toml",
        "tests/kit/Cargo.toml",
        "fuzz/Cargo.toml",
        "Makefile",
        ".ci/run",
        "deny.toml",
        "clippy.toml",
        "debian/rules",
        "rpm/nf-transport.spec",
        "rpm/rpmlint.toml",
    ];
    let single = single.iter().map(|path| read(&root().join(path)));
    let folders =
        [("etc", ".toml"), ("tmpfiles.d", ".conf"), ("sysusers.d", ".conf"), ("units/examples", ".conf")];
    let units = [("units", ".service.in"), ("units", ".socket")];
    let folders = folders.iter().chain(&units).flat_map(|(folder, ending)| with_ending(folder, ending));
    single.chain(folders).collect()
}

fn all_prose() -> Vec<Prose> {
    let documents = [with_ending("", ".md"), with_ending("docs", ".md")].concat();
    let pages = ["8", "7", "5"].map(|section| with_ending("man", &format!(".{section}"))).concat();
    let code = code();
    let code = code.iter().map(|(path, text)| Prose::of_code(path, text));
    let configurations = configurations();
    let configurations = configurations.iter().map(|(path, text)| Prose::of_comments(path, text, "#"));
    let code = code.chain(configurations);
    let documents = documents.iter().map(|(path, text)| Prose::of_document(path, text));
    let pages = pages.iter().map(|(path, text)| Prose::of_page(path, text));
    code.chain(documents).chain(pages).filter(|prose| prose.path != Path::new(file!())).collect()
}

#[test]
fn comments_and_documents_use_plain_words() {
    let prose = all_prose();
    let mut found = String::new();
    for (turn, plain) in BANNED {
        for prose in &prose {
            for (at, line) in prose.uses(turn) {
                writeln!(found, "{}:{at}: \"{turn}\" ({plain}): {line}", prose.path.display()).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn what_is_rare_in_comments_and_documents() {
    let prose = all_prose();
    let places: Vec<String> = prose
        .iter()
        .flat_map(|prose| {
            prose.uses("what").map(|(at, line)| format!("{}:{at}: {line}", prose.path.display()))
        })
        .collect();
    let words: usize = prose.iter().map(Prose::words).sum();
    let rate =
        1000.0 * f64::from(u32::try_from(places.len()).unwrap()) / f64::from(u32::try_from(words).unwrap());
    println!("{} lines with \"what\" in {words} words: {rate:.1} in 1,000", places.len());
    assert!(rate <= WHAT_MAX, "{rate:.1} in 1,000 words:\n{}", places.join("\n"));
}

#[test]
fn sentences_are_short() {
    let mut lengths: Vec<usize> = all_prose().iter().flat_map(Prose::sentences).collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    println!("{} sentences, median {median} words", lengths.len());
    assert!(median <= SENTENCE_MAX);
}

#[test]
fn lines_of_code_fit_the_page() {
    let mut found = String::new();
    for (path, text) in code() {
        for (at, line) in text.lines().enumerate() {
            // A string, a link or a row of a table may be longer: none of them can be wrapped.
            let is_row = line.trim_start().trim_start_matches(['/', '!', ' ']).starts_with('|');
            let is_whole = is_row || line.contains('"') || line.contains("://");
            if line.chars().count() > COLUMNS_MAX && !is_whole {
                writeln!(found, "{}:{}: {line}", path.display(), at + 1).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "lines of more than {COLUMNS_MAX} columns:\n{found}");
}

#[test]
fn doc_comments_start_with_a_noun_or_a_verb() {
    let mut found = String::new();
    for (path, text) in code() {
        let is_doc = |line: &str| line.trim_start().starts_with("///");
        let lines: Vec<&str> = std::iter::once("").chain(text.lines()).collect();
        for (at, pair) in (1..).zip(lines.windows(2)) {
            let first = pair[1].trim_start().trim_start_matches("///").split_whitespace().next();
            let is_start = is_doc(pair[1]) && !is_doc(pair[0]);
            if is_start && first.is_some_and(|word| NO_STARTS.contains(&word)) {
                writeln!(found, "{}:{at}: {}", path.display(), pair[1]).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn riddles_are_found_and_quotes_are_not() {
    let text = "/// What waits here, at the most \"at the most\" `anew`.\nlet what = 1; // anew\n";
    let prose = Prose::of_code(Path::new("x.rs"), text);
    assert_eq!(prose.uses("at the most").map(|(at, _)| at).collect::<Vec<_>>(), [1]);
    assert_eq!(prose.uses("what waits").count(), 1);
    assert_eq!(prose.uses("anew").count(), 0);
    let makefile = Prose::of_comments(Path::new("Makefile"), "anew:\n\t# Built anew.\n", "#");
    assert_eq!(makefile.uses("anew").map(|(at, _)| at).collect::<Vec<_>>(), [2]);
    assert_eq!(
        Prose::of_code(Path::new("x.rs"), "// One two three. Four five six seven.").sentences(),
        [3, 4]
    );
    let document = "# Title\n\nSome words here.\n\n    what waits\n\n```\nanew\n```\n";
    let document = Prose::of_document(Path::new("x.md"), document);
    assert_eq!(["what waits", "anew"].map(|turn| document.uses(turn).count()), [0, 0]);
}
