//! The contents of a datagram, as far as an exporter may count them.

/// Amounts of each kind in a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Flow records; `None` if unknown because templates are missing.
    pub(super) flows: Option<u32>,
    /// Data records of options; `None` if unknown.
    pub(super) options: Option<u32>,
    /// Template records and withdrawals.
    pub(super) templates: u32,
    /// NetFlow v9: the count field of the header.
    pub(super) announced: Option<u32>,
}

impl Contents {
    /// Contents of flows only.
    pub(super) fn flows(flows: u32) -> Self {
        Self { flows: Some(flows), options: Some(0), ..Self::default() }
    }

    /// Contents of a NetFlow v9 datagram of which only the header was read.
    pub(super) fn announced(count: u16) -> Self {
        Self { announced: Some(u32::from(count)), ..Self::default() }
    }

    /// Adds a data set; `None` if its records cannot be counted.
    pub(super) fn add_data(&mut self, records: Option<u32>, is_options: bool) {
        let add =
            |sum: Option<u32>, more: Option<u32>| sum.zip(more).and_then(|(sum, more)| sum.checked_add(more));
        // Records that cannot be counted may be of either kind.
        let (flows, options) = match records {
            None => (None, None),
            Some(records) if is_options => (Some(0), Some(records)),
            Some(records) => (Some(records), Some(0)),
        };
        (self.flows, self.options) = (add(self.flows, flows), add(self.options, options));
    }

    /// Adds a template set. `None` stands for a set of a reserved kind, which may hold anything.
    pub(super) fn add_templates(&mut self, records: Option<u32>) {
        match records {
            Some(records) => self.templates = self.templates.saturating_add(records),
            None => self.add_data(None, false),
        }
    }

    /// All data records: those of flows and those of options.
    pub(super) fn data_records(&self) -> Option<u32> {
        self.flows?.checked_add(self.options?)
    }
}
