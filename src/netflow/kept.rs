//! Templates on their way to and from a file.

use core::fmt;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::netflow::ExporterKey;
use crate::netflow::definitions::{Definition, Definitions};
use crate::netflow::sets::Format;
use crate::netflow::template::{Change, Template};

/// The templates of one exporter, by their order. What comes from a file may be anything;
/// [`TemplateMemory::restore`](crate::netflow::TemplateMemory::restore) checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The exporter's own address and port.
    pub exporter: SocketAddr,
    /// 9, or 10 for IPFIX.
    pub version: u16,
    /// Source id or observation domain id.
    pub source_id: u32,
    /// From the one defined first to the one defined last.
    pub templates: Vec<KeptTemplate>,
}

/// One template or options template.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTemplate {
    /// 256 to 65,535.
    pub template_id: u16,
    /// Whether it is an options template.
    pub is_options: bool,
    /// The template record, byte for byte; as text: base64.
    #[serde(with = "text")]
    pub definition: Vec<u8>,
}

impl fmt::Debug for KeptTemplate {
    /// Shows which and how long, never the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, options: {})", self.template_id, self.definition.len(), self.is_options)
    }
}

impl Kept {
    pub(super) fn new(key: ExporterKey, definitions: &Definitions) -> Self {
        let templates = definitions.iter().map(KeptTemplate::new).collect();
        let ExporterKey { address: exporter, version, source_id } = key;
        Self { exporter, version, source_id, templates }
    }

    pub(super) fn key(&self) -> ExporterKey {
        ExporterKey { address: self.exporter, version: self.version, source_id: self.source_id }
    }

    /// The definitions among the templates; what is malformed is left out.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let format = Format::of(self.version);
        let templates = self.templates.iter();
        templates.filter_map(move |template| template.parse(format?)).map(Change::Defined)
    }
}

impl KeptTemplate {
    fn new(definition: &Definition) -> Self {
        Self {
            template_id: definition.template_id,
            is_options: definition.is_options,
            definition: definition.bytes.to_vec(),
        }
    }

    /// The template; `None` if the definition is no such one, or more than one.
    fn parse(&self, format: Format) -> Option<Template<'_>> {
        let template = Template::parse(format, self.is_options, &self.definition)?;
        let exact = template.id == self.template_id && template.definition.len() == self.definition.len();
        exact.then_some(template)
    }
}

/// Bytes as base64.
mod text {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(de::Error::custom)
    }
}
