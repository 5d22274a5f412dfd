//! The form in which templates and options data are stored in files.

use core::fmt;
use core::net::IpAddr;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::netflow::definitions::{Definition, Definitions};
use crate::netflow::domain::DomainKey;
use crate::netflow::options::Options;
use crate::netflow::sets::Format;
use crate::netflow::template::Template;

/// The definitions of one exporter, in their order. A file may contain anything:
/// [`TemplateMemory`](crate::netflow::TemplateMemory) checks it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    /// The exporter's own address.
    pub exporter: IpAddr,
    /// The interface of a link-local address; 0 for others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scope: u32,
    /// The exporter's port, if other exporters have the same address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 9, or 10 for IPFIX.
    pub version: u16,
    /// Source id or observation domain id.
    pub source_id: u32,
    /// From the one defined first to the one defined last.
    pub templates: Vec<KeptTemplate>,
    /// In the order of arrival within one template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<KeptRecord>,
}

/// One template or options template.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptTemplate {
    /// 256 to 65,535.
    pub template_id: u16,
    /// True for an options template.
    pub is_options: bool,
    /// The source port of its last definition.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    /// The template record, byte for byte; as text: base64.
    #[serde(with = "text")]
    pub definition: Vec<u8>,
}

/// One options data record.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptRecord {
    /// The id of its options template.
    pub template_id: u16,
    /// Byte for byte; as text: base64.
    #[serde(with = "text")]
    pub record: Vec<u8>,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl fmt::Debug for KeptTemplate {
    /// Shows the id and the length, never the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, options: {})", self.template_id, self.definition.len(), self.is_options)
    }
}

impl fmt::Debug for KeptRecord {
    /// Shows the template id and the length, never the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} ({} bytes)", self.template_id, self.record.len())
    }
}

/// One observation domain of an exporter, as files name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptDomain {
    /// The exporter's own address.
    pub exporter: IpAddr,
    /// The interface of a link-local address; 0 for others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scope: u32,
    /// The exporter's port, if other exporters have the same address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 9, or 10 for IPFIX.
    pub version: u16,
    /// Source id or observation domain id.
    pub source_id: u32,
}

impl KeptDomain {
    pub(super) fn new(key: DomainKey) -> Self {
        let DomainKey { exporter, scope, port, version, source_id } = key;
        Self { exporter, scope, port, version, source_id }
    }

    pub(super) fn key(&self) -> DomainKey {
        let Self { exporter, scope, port, version, source_id } = *self;
        DomainKey { exporter, scope, port, version, source_id }
    }
}

impl Kept {
    /// The templates of a domain.
    pub(super) fn of_templates(key: DomainKey, definitions: &Definitions) -> Self {
        let templates = definitions.iter().map(KeptTemplate::new).collect();
        Self::new(key, templates, Vec::new())
    }

    /// The options data of a domain, and the templates that they need.
    pub(super) fn of_options(key: DomainKey, definitions: &Definitions, options: &Options) -> Self {
        let records = options.since(0);
        let records: Vec<KeptRecord> = records
            .map(|(template_id, record)| KeptRecord { template_id, record: record.to_vec() })
            .collect();
        let ids: HashSet<u16> = records.iter().map(|record| record.template_id).collect();
        let templates = definitions.iter().filter(|definition| ids.contains(&definition.template_id));
        Self::new(key, templates.map(KeptTemplate::new).collect(), records)
    }

    fn new(key: DomainKey, templates: Vec<KeptTemplate>, options: Vec<KeptRecord>) -> Self {
        let DomainKey { exporter, scope, port, version, source_id } = key;
        Self { exporter, scope, port, version, source_id, templates, options }
    }

    pub(super) fn key(&self) -> DomainKey {
        let Self { exporter, scope, port, version, source_id, .. } = *self;
        DomainKey { exporter, scope, port, version, source_id }
    }

    /// The templates, each with the port that defined it, without malformed ones.
    pub(super) fn templates(&self) -> impl Iterator<Item = (u16, Template<'_>)> {
        let format = Format::from_version(self.version);
        self.templates.iter().filter_map(move |template| Some((template.port, template.parse(format?)?)))
    }
}

impl KeptTemplate {
    fn new(definition: &Definition) -> Self {
        Self {
            template_id: definition.template_id,
            is_options: definition.is_options,
            port: definition.port,
            definition: definition.bytes.to_vec(),
        }
    }

    /// The template; `None` unless the definition is exactly one template record of this kind.
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
