//! What the configuration adds to the events of single cameras when they are sent: tags, and a bucket of their own in InfluxDB. Not part of the
//! stored events: an event that was stored before a change is sent with the labels of the time of its first sending.

use crate::base::limits::{CAMERAS_MAX, TAGS_BYTES_MAX};
use crate::event::Name;

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Letters, digits and `_`.
    pub key: String,
    /// Any text.
    pub value: String,
}

impl Label {
    /// Keys that events have themselves, in one of the formats.
    const TAKEN: [&'static str; 8] =
        ["device", "source", "class", "direction", "line", "way", "type", "reason"];

    /// Reads `key=value`.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let (key, value) = (key.trim(), value.trim());
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_key || value.is_empty() {
            return Err(format!("'{text}' must be KEY=VALUE, KEY of letters, digits and _"));
        }
        if Self::TAKEN.contains(&key) {
            return Err(format!("'{key}' is a tag of the events themselves: take another name"));
        }
        Ok(Label { key: key.to_owned(), value: value.to_owned() })
    }
}

/// The labels of one camera.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CameraLabels {
    /// Its tags, each key once, at most [`TAGS_BYTES_MAX`] bytes together.
    pub tags: Vec<Label>,
    /// The bucket (InfluxDB 2 and 3) or database (InfluxDB 1) of its events, instead of the uplink's.
    pub bucket: Option<String>,
}

impl CameraLabels {
    /// From `key=value` texts.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(texts: &[String], bucket: Option<String>) -> Result<Self, String> {
        let mut tags: Vec<Label> = Vec::new();
        for text in texts {
            let label = Label::parse(text)?;
            if tags.iter().any(|other| other.key == label.key) {
                return Err(format!("'{}' is there twice", label.key));
            }
            tags.push(label);
        }
        let bytes: usize = tags.iter().map(|tag| tag.key.len() + tag.value.len() + 2).sum();
        if bytes > TAGS_BYTES_MAX {
            return Err(format!("has {bytes} bytes, with 2 for each; at most {TAGS_BYTES_MAX} are allowed"));
        }
        Ok(CameraLabels { tags, bucket })
    }
}

/// The labels of all cameras, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(heapless::Vec<(Name, CameraLabels), CAMERAS_MAX>);

impl Labels {
    /// No labels.
    pub const NONE: &'static Labels = &Labels(heapless::Vec::new());

    /// The labels of these cameras.
    pub fn new(cameras: impl IntoIterator<Item = (Name, CameraLabels)>) -> Self {
        Labels(cameras.into_iter().take(CAMERAS_MAX).collect())
    }

    /// The tags of a camera's events.
    pub fn tags(&self, camera: &str) -> &[Label] {
        self.of(camera).map_or(&[], |labels| &labels.tags)
    }

    /// The bucket of a camera's events, if they have one of their own.
    pub fn bucket(&self, camera: &str) -> Option<&str> {
        self.of(camera)?.bucket.as_deref()
    }

    /// Every bucket besides the uplink's, once.
    pub fn buckets(&self) -> impl Iterator<Item = &str> {
        let bucket = |index: usize| self.0[index].1.bucket.as_deref();
        (0..self.0.len())
            .filter(move |index| (0..*index).all(|before| bucket(before) != bucket(*index)))
            .filter_map(bucket)
    }

    fn of(&self, camera: &str) -> Option<&CameraLabels> {
        self.0.iter().find(|(name, _)| name == camera).map(|(_, labels)| labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixed;

    #[test]
    fn tags_are_read_or_refused_with_the_reason() {
        let labels = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            CameraLabels::new(&texts, None)
        };
        let good = labels(&["site=A 7", "lane_2 = in=out"]).unwrap();
        let pairs: Vec<(&str, &str)> =
            good.tags.iter().map(|tag| (tag.key.as_str(), tag.value.as_str())).collect();
        assert_eq!(pairs, [("site", "A 7"), ("lane_2", "in=out")]);
        let long = format!("k={}", "v".repeat(TAGS_BYTES_MAX));
        for (texts, why) in [
            (&["site"][..], "must be KEY=VALUE"),
            (&["=x"], "must be KEY=VALUE"),
            (&["a b=x"], "must be KEY=VALUE"),
            (&["class=x"], "a tag of the events"),
            (&["a=1", "a=2"], "twice"),
            (&[long.as_str()], "at most"),
        ] {
            assert!(labels(texts).unwrap_err().contains(why), "{texts:?}");
        }
    }

    #[test]
    fn each_bucket_is_named_once() {
        let camera = |name: &str, bucket: Option<&str>| {
            (fixed(name), CameraLabels { bucket: bucket.map(str::to_owned), ..CameraLabels::default() })
        };
        let labels = Labels::new([
            camera("a", Some("x")),
            camera("b", None),
            camera("c", Some("x")),
            camera("d", Some("y")),
        ]);
        assert_eq!(labels.buckets().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((labels.bucket("c"), labels.bucket("b"), labels.bucket("")), (Some("x"), None, None));
        assert!(labels.tags("a").is_empty());
    }
}
