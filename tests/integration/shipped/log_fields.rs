//! A field that a catalog entry names is logged by every message with that id. Otherwise `journalctl -x`
//! prints the placeholder instead of the value.

use std::collections::{BTreeMap, BTreeSet};

use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::visit::{self, Visit};

use super::{read, source};
use crate::floors::imports::sources;

/// Statements that log the id of their caller, and the constants of these ids, by file.
const CALLERS_CHOOSE: [(&str, &[&str]); 8] = [
    ("src/sender/uplink.rs", &["sender::NOT_CONNECTED", "sender::REFUSED", "sender::STALLED"]),
    ("src/sender/uplink/attempt.rs", &["sender::NOT_CONNECTED", "sender::REFUSED", "sender::STALLED"]),
    (
        "src/host/credentials/expiry.rs",
        &["sender::CERTIFICATE_ENDS", "receiver::CERTIFICATE_ENDS", "receiver::REVOCATION_LIST_ENDS"],
    ),
    ("src/host/process/console.rs", &["sender::CONFIGURATION_REFUSED", "receiver::CONFIGURATION_REFUSED"]),
    ("src/host/process/panics.rs", &["sender::INTERNAL_ERROR", "receiver::INTERNAL_ERROR"]),
    ("src/host/process/internal_error_log.rs", &["sender::INTERNAL_ERROR", "receiver::INTERNAL_ERROR"]),
    ("src/host/process/reload.rs", &["sender::NOT_RELOADED", "receiver::NOT_RELOADED"]),
    ("src/host/systemd/watchdog.rs", &["sender::LOOP_STUCK", "receiver::LOOP_STUCK"]),
];

/// One statement that logs, for example `tracing::warn!(message_id = sender::REFUSED, receiver, "rejected")`.
#[derive(Debug, Default)]
struct LogStatement {
    fields: BTreeSet<String>,
    /// The constants of its message id, each with its module. Empty if its caller chooses.
    ids: BTreeSet<String>,
}

impl LogStatement {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut statement = Self::default();
        while !input.is_empty() && !input.peek(syn::LitStr) {
            skip_format(input)?;
            let name = input.call(syn::Ident::parse_any)?.to_string();
            if input.parse::<Option<syn::Token![=]>>()?.is_some() {
                skip_format(input)?;
                let value = input.parse::<syn::Expr>()?;
                if name == "message_id" {
                    statement.ids = MessageIds::in_expression(&value);
                }
            }
            input.parse::<Option<syn::Token![,]>>()?;
            statement.fields.insert(name);
        }
        while !input.is_empty() {
            input.step(|cursor| Ok(((), cursor.token_tree().map_or(*cursor, |(_, next)| next))))?;
        }
        Ok(statement)
    }
}

/// Skips the sign for a value that is logged by `Display` or `Debug`.
fn skip_format(input: ParseStream<'_>) -> syn::Result<()> {
    input.parse::<Option<syn::Token![%]>>()?;
    input.parse::<Option<syn::Token![?]>>()?;
    Ok(())
}

/// The constants of message ids in a piece of code.
#[derive(Default)]
struct MessageIds(BTreeSet<String>);

impl MessageIds {
    fn in_expression(value: &syn::Expr) -> BTreeSet<String> {
        let mut ids = Self::default();
        ids.visit_expr(value);
        ids.0
    }
}

impl<'ast> Visit<'ast> for MessageIds {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names = path.segments.iter().rev().map(|segment| segment.ident.to_string());
        if let (Some(constant), Some(module)) = (names.next(), names.next())
            && (module == "sender" || module == "receiver")
            && constant.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        {
            self.0.insert(format!("{module}::{constant}"));
        }
        visit::visit_path(self, path);
    }
}

/// The statements of a file that log with a message id.
#[derive(Default)]
struct LogStatements {
    found: Vec<LogStatement>,
    /// The ids in the function around.
    around: BTreeSet<String>,
    /// Number of all statements that log.
    count: usize,
}

impl LogStatements {
    fn of_source(text: &str) -> Self {
        let mut statements = Self::default();
        statements.visit_file(&syn::parse_file(text).unwrap());
        let levels = ["error", "warn", "info", "debug", "trace"];
        let written: usize =
            levels.iter().map(|level| text.matches(&format!("tracing::{level}!(")).count()).sum();
        assert_eq!(statements.count, written, "a log statement was not found: {text}");
        statements
    }

    fn add(&mut self, mut statement: LogStatement) {
        self.count += 1;
        if statement.fields.contains("message_id") {
            if statement.ids.is_empty() {
                statement.ids.clone_from(&self.around);
            }
            self.found.push(statement);
        }
    }

    fn visit_function(&mut self, block: &syn::Block) {
        let mut ids = MessageIds::default();
        ids.visit_block(block);
        let outer = core::mem::replace(&mut self.around, ids.0);
        self.visit_block(block);
        self.around = outer;
    }
}

impl<'ast> Visit<'ast> for LogStatements {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.visit_function(&function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.visit_function(&function.block);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        if called.path.segments.first().is_some_and(|first| first.ident == "tracing") {
            self.add(called.parse_body_with(LogStatement::parse).unwrap());
            return;
        }
        // Other macros, such as select!, contain statements as tokens.
        let tokens = called.tokens.to_string();
        for (at, path) in tokens.match_indices("tracing ::") {
            let (_, arguments) = tokens[at + path.len()..].split_once('(').unwrap();
            self.add(LogStatement::parse.parse_str(up_to_end(arguments)).unwrap());
        }
    }
}

/// The tokens before the parenthesis that closes an argument list.
fn up_to_end(tokens: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (0, false, false);
    for (at, c) in tokens.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_text => is_escaped = true,
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text && depth == 0 => return &tokens[..at],
            ')' if !is_text => depth -= 1,
            _ => {}
        }
    }
    panic!("an argument list without end: {tokens}")
}

/// The placeholders of a catalog's entry for each message id, as names of fields.
fn placeholders(catalog: &str) -> BTreeMap<&str, BTreeSet<String>> {
    let entries = catalog.split("\n-- ").skip(1).filter_map(|entry| entry.split_once('\n'));
    let names = |text: &str| text.split('@').skip(1).step_by(2).map(str::to_lowercase).collect();
    entries.map(|(id, text)| (id, names(text))).collect()
}

/// The message id of a constant such as `sender::REFUSED`.
fn message_id(messages: &str, constant: &str) -> String {
    let (module, name) = constant.split_once("::").unwrap();
    let (_, module) = messages.split_once(&format!("pub mod {module} {{")).unwrap();
    let (_, value) = module.split_once(&format!("pub const {name}: &str = \"")).unwrap();
    value[..32].to_owned()
}

/// The placeholders that a statement does not log.
fn missing(statement: &LogStatement, wanted: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let missing = |id: &String| {
        let names = wanted[id].difference(&statement.fields);
        names.map(|name| format!("{id} lacks {name}")).collect::<Vec<_>>()
    };
    statement.ids.iter().flat_map(missing).collect()
}

#[test]
fn each_message_logs_the_fields_of_its_entry() {
    let messages = read("src/host/systemd/messages.rs");
    let catalogs =
        ["sender", "receiver"].map(|program| (program, read(&format!("catalog/nf-{program}.catalog"))));
    let mut wanted = BTreeMap::new();
    for (module, catalog) in &catalogs {
        let placeholders = placeholders(catalog);
        let (_, constants) = messages.split_once(&format!("pub mod {module} {{")).unwrap();
        let constants = constants.split("\n}").next().unwrap().split("pub const ").skip(1);
        for name in constants.filter_map(|constant| constant.split(':').next()) {
            let constant = format!("{module}::{name}");
            let names = placeholders[message_id(&messages, &constant).as_str()].clone();
            wanted.insert(constant, names);
        }
    }
    let mut logged = BTreeSet::new();
    let mut chosen = BTreeSet::new();
    for path in sources(&source("src")) {
        let name = path.strip_prefix(source("")).unwrap().display().to_string();
        for mut statement in LogStatements::of_source(&read(&name)).found {
            if statement.ids.is_empty() && !name.contains("/logging/") {
                let row = CALLERS_CHOOSE.iter().find(|(file, _)| *file == name);
                let (file, ids) = row.unwrap_or_else(|| panic!("{name}: which ids? {statement:?}"));
                statement.ids.extend(ids.iter().map(|&id| id.to_owned()));
                chosen.insert(*file);
            }
            assert_eq!(missing(&statement, &wanted), [""; 0], "{name}: {statement:?}");
            logged.extend(statement.ids);
        }
    }
    assert_eq!(chosen.len(), CALLERS_CHOOSE.len(), "{chosen:?}");
    let unlogged: Vec<_> = wanted.keys().filter(|id| !logged.contains(*id)).collect();
    assert!(unlogged.is_empty(), "no statement logs {unlogged:?}");
}

#[test]
fn fields_and_ids_of_statements_are_found() {
    let text = r#"
        fn direct() { tracing::warn!(message_id = sender::A_B, %error, ?held, count = 3 + 4, "{x}", y = 1); }
        fn indirect() { let message_id = receiver::C; tracing::info!(message_id, peer, "none"); }
        fn chosen(message_id: &str) { tracing::info!(message_id, "none"); }
        fn nested() { select! { _ = f() => tracing::info!(message_id = receiver::D, id = f(1), "\\ )", 2) } }
        fn unnumbered() { tracing::info!("none"); }"#;
    let found = LogStatements::of_source(text).found;
    let fields = |index: usize| found[index].fields.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(fields(0), ["count", "error", "held", "message_id"]);
    let ids: Vec<Vec<&str>> =
        found.iter().map(|found| found.ids.iter().map(String::as_str).collect()).collect();
    assert_eq!(ids, [vec!["sender::A_B"], vec!["receiver::C"], vec![], vec!["receiver::D"]]);
    let wanted = [("sender::A_B".to_owned(), ["error", "peer"].map(str::to_owned).into())].into();
    assert_eq!(missing(&found[0], &wanted), ["sender::A_B lacks peer"]);
    let entry = "text\n-- 0123\nSubject: @PEER@\n\nAnd @STILL_S@ s\n";
    assert_eq!(placeholders(entry)["0123"], ["peer", "still_s"].map(str::to_owned).into());
}
