//! What `/status.json` says, as far as it is shown. Every figure may be absent: the page of an older or newer version is read, too. Texts are
//! untrusted: what a terminal would act on is replaced.

use crate::base::text::printable;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// The figures of an object, by the names of `metrics/table.rs`, in their units; `None`: absent, or not a whole number.
macro_rules! figures {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<u64>,)*
        }

        impl $name {
            fn of(object: &Value) -> Self {
                $name { $($field: object[stringify!($field)].as_u64(),)* }
            }
        }
    };
}

figures! {
    /// Of the device.
    Stats { uptime_ms, events_delivered, events_dropped, events_refused, send_failures, last_delivery_age_ms }
}

figures! {
    /// Of the board and the process.
    Machine {
        cpu_permille, cpu_process_permille, rss_bytes, rss_growth_per_hour_bytes, temperature_millicelsius, throttled, under_voltage,
        clock_synchronised, load_permille, rate_factor_permille,
    }
}

figures! {
    /// Of the spool on disk.
    Storage { waiting, disk_bytes, written_day_bytes }
}

figures! {
    /// Of a camera.
    CameraFigures {
        lost, last_frame_age_ms, rate_wanted_millihertz, rate_captured_millihertz, rate_processed_millihertz, motion_permille,
        latency_p50_us, latency_p95_us, tracks, frames_camera_dropped, frames_ring_dropped, frames_corrupt,
    }
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Camera {
    pub(super) name: String,
    pub(super) figures: CameraFigures,
    /// Crossings since [`Page::today_since`].
    pub(super) today: Option<u64>,
}

/// A rule for alerts that holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Alert {
    pub(super) rule: String,
    pub(super) camera: Option<String>,
    /// For how long, seconds.
    pub(super) since_s: Option<u64>,
    pub(super) text: Option<String>,
}

/// The page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Page {
    pub(super) device: String,
    pub(super) version: Option<String>,
    pub(super) stats: Stats,
    pub(super) machine: Machine,
    /// `None`: the spool has no folder.
    pub(super) storage: Option<Storage>,
    /// In the order of the configuration.
    pub(super) cameras: Vec<Camera>,
    /// From when on the crossings of today are counted, RFC 3339; `None`: since the start, because the clock is not trusted.
    pub(super) today_since: Option<String>,
    /// Those that hold.
    pub(super) alerts: Vec<Alert>,
    /// How many rules there are.
    pub(super) rules: usize,
}

impl Page {
    /// Reads a page; `None`: it is not one of flytrap.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(body).ok()?;
        let device = printable(raw.device.as_str()?);
        if !raw.stats.is_object() {
            return None;
        }
        let text = |value: &Value| value.as_str().map(printable);
        let camera = |(name, figures): &(String, Value)| Camera {
            name: printable(name),
            figures: CameraFigures::of(figures),
            today: raw.today["crossings"][name.as_str()].as_u64(),
        };
        let rules = raw.alerts.as_array().map_or(&[][..], Vec::as_slice);
        let alert = |rule: &Value| Alert {
            rule: text(&rule["rule"]).unwrap_or_default(),
            camera: text(&rule["camera"]),
            since_s: rule["since_s"].as_u64(),
            text: text(&rule["text"]),
        };
        Some(Page {
            device,
            version: text(&raw.version),
            stats: Stats::of(&raw.stats),
            machine: Machine::of(&raw.machine),
            storage: raw.storage.is_object().then(|| Storage::of(&raw.storage)),
            cameras: raw.cameras.0.iter().map(camera).collect(),
            today_since: text(&raw.today["since"]),
            alerts: rules.iter().filter(|rule| rule["active"] == true).map(alert).collect(),
            rules: rules.len(),
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    device: Value,
    version: Value,
    stats: Value,
    machine: Value,
    storage: Value,
    cameras: InOrder,
    today: Value,
    alerts: Value,
}

/// The entries of an object in its order, which `Value` does not keep.
#[derive(Default)]
struct InOrder(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_keep_their_order_and_unknown_shapes_are_absent() {
        let body = r#"{"device": "mast-7", "new": [1], "stats": {"uptime_ms": 5, "send_failures": "many"}, "storage": null,
            "cameras": {"south": {"tracks": 1.5, "lost": 0}, "north": 7}, "today": {"since": null, "crossings": {"north": 3}},
            "alerts": [{"rule": "hot", "active": true}, {"rule": "dry", "active": false}, 9]}"#;
        let page = Page::parse(body.as_bytes()).unwrap();
        let names: Vec<&str> = page.cameras.iter().map(|camera| camera.name.as_str()).collect();
        assert_eq!(names, ["south", "north"]);
        assert_eq!((page.cameras[0].figures.lost, page.cameras[0].figures.tracks), (Some(0), None));
        assert_eq!((page.cameras[0].today, page.cameras[1].today), (None, Some(3)));
        assert_eq!((page.stats.uptime_ms, page.stats.send_failures, page.storage), (Some(5), None, None));
        assert_eq!((page.alerts.len(), page.rules, page.alerts[0].rule.as_str()), (1, 3, "hot"));
    }

    #[test]
    fn what_is_no_status_page_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "<html>",
            r#"{"device": "x"}"#,
            r#"{"stats": {}}"#,
            r#"{"device": 7, "stats": {}}"#,
        ] {
            assert_eq!(Page::parse(body.as_bytes()), None, "{body}");
        }
        assert_eq!(Page::parse(&b"[".repeat(100_000)), None, "nested too deeply");
        assert_eq!(Page::parse(br#"{"device": "x", "stats": {}}"#).unwrap().device, "x");
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        assert_eq!(printable("\u{1b}[2Jnorth\r\n\u{7f}\u{9b}31m\u{202e}x\u{200b}"), "?[2Jnorth????31m?x?");
        assert_eq!(printable("Zürich 北門 – 7 °C"), "Zürich 北門 – 7 °C");
    }
}
