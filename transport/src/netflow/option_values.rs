//! Information elements that are values in options data: they change while the record stays about the same
//! thing.
//!
//! Many exporters give all records of a table one scope ("the system") and have the sampler, interface or
//! application among the other fields. So a record is identified by its scope and by every field that is not
//! listed here. An element that is missing in the list costs room only: a record with another value of it is
//! kept next to the earlier one.

/// The numbers are the same in NetFlow v9 (RFC 3954, 8) and IPFIX (IANA's registry of IPFIX information
/// elements).
const VALUES: [core::ops::RangeInclusive<u16>; 21] = [
    1..=3,     // octets, packets, flows
    19..=24,   // times since boot, octets and packets after the observation point
    34..=37,   // sampling interval and algorithm, timeouts
    40..=42,   // exported octets, messages, flows
    49..=50,   // sampler mode and interval
    82..=86,   // names of interface and sampler, totals of octets and packets
    94..=94,   // description of an application
    96..=96,   // name of an application
    132..=135, // dropped octets and packets
    150..=168, // times, totals of ignored and unsent packets
    236..=236, // name of a VRF
    258..=258, // collection time
    304..=311, // algorithm, interval, space, time, size, population and probability of sampling
    318..=325, // packets observed and selected, errors, observation times
    326..=326, // digest hash value
    335..=335, // name of a selector
    339..=345, // type, description, name, range, semantics and units of an information element
    372..=374, // categories and group of an application
    390..=390, // algorithm of flow selection
    396..=403, // intervals, spaces and rates of flow selection
    406..=406, // section exported octets
];

/// True if the element of this number is a value.
pub(super) fn is_value(element: u16) -> bool {
    VALUES.iter().any(|range| range.contains(&element))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_samplers_and_interfaces_are_no_values() {
        for key in [10, 14, 48, 51, 61, 95, 141, 149, 234, 235, 252, 301, 302, 303, 346] {
            assert!(!is_value(key), "{key}");
        }
        for value in [34, 50, 82, 83, 84, 96, 305, 306] {
            assert!(is_value(value), "{value}");
        }
    }
}
