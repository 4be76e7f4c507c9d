//! Decides what is dropped when space runs out: from a list; the caller does it. Pure.
//!
//! Segments that are too old are dropped first. Then, until there is space, the oldest segment of the least valuable class: tracks and
//! statistics before crossings before alerts. A segment whose events are being sent, or that is being written, stays.

use std::time::Duration;

use super::Class;

/// Limits of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// Older events are not worth sending.
    pub age_max: Option<Duration>,
    /// Bytes of the file system that are left free for others.
    pub headroom: u64,
}

/// A segment that could be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its class.
    pub class: Class,
    /// Size of its file.
    pub bytes: u64,
    /// Events that would be lost with it.
    pub events: u64,
    /// Age of its newest event, if the calendar is known.
    pub age: Option<Duration>,
    /// It is in use.
    pub in_use: bool,
}

/// Why a segment is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Older than the quota's age.
    Age,
    /// The files take too much space.
    Bytes,
    /// There are too many events.
    Count,
    /// The rest of the system needs the space.
    Headroom,
    /// Its folder was removed, replaced or mounted over.
    Detached,
}

impl Reason {
    /// The reason as text.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Age => "age",
            Reason::Bytes => "quota",
            Reason::Count => "count",
            Reason::Headroom => "headroom",
            Reason::Detached => "folder gone",
        }
    }
}

/// Order in which classes are dropped.
const ORDER: [Class; 4] = [Class::Dead, Class::Details, Class::Counts, Class::Alerts];

/// Returns which of `held` (oldest first in each class) have to be dropped, in this order, so that `need` more bytes fit. `free`: free
/// bytes of the file system. Dropping all of them may still not be enough.
pub fn plan(held: &[Held], quota: &Quota, free: Option<u64>, need: u64) -> Vec<(usize, Reason)> {
    let mut gone: Vec<(usize, Reason)> = Vec::new();
    let (mut bytes, mut events) = (0, 0);
    let (mut freed, mut old) = (0, vec![false; held.len()]);
    for (index, segment) in held.iter().enumerate() {
        let too_old = quota.age_max.is_some_and(|age_max| segment.age.is_some_and(|age| age > age_max));
        if too_old && !segment.in_use {
            gone.push((index, Reason::Age));
            (old[index], freed) = (true, freed + segment.bytes);
        } else {
            (bytes, events) = (bytes + segment.bytes, events + segment.events);
        }
    }
    let of_class = |class| held.iter().enumerate().filter(move |(_, segment)| segment.class == class);
    for (index, segment) in ORDER.into_iter().flat_map(of_class) {
        if segment.in_use || old[index] {
            continue;
        }
        let reason = if bytes + need > quota.bytes {
            Reason::Bytes
        } else if events > quota.events {
            Reason::Count
        } else if free.is_some_and(|free| free + freed < quota.headroom.saturating_add(need)) {
            Reason::Headroom
        } else {
            break;
        };
        gone.push((index, reason));
        (bytes, events) = (bytes - segment.bytes, events - segment.events);
        freed += segment.bytes;
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOMY: Quota = Quota { bytes: 1000, events: 1000, age_max: None, headroom: 0 };

    fn held(class: Class, bytes: u64) -> Held {
        Held { class, bytes, events: 10, age: None, in_use: false }
    }

    #[test]
    fn the_least_valuable_and_oldest_are_dropped_first_and_no_more_than_needed() {
        let all = [
            held(Class::Alerts, 100),
            held(Class::Counts, 100),
            held(Class::Counts, 100),
            held(Class::Details, 100),
            held(Class::Details, 100),
        ];
        let gone = |quota: Quota, free, need| plan(&all, &quota, free, need);
        assert_eq!(gone(ROOMY, None, 500), []);
        assert_eq!(gone(ROOMY, None, 501), [(3, Reason::Bytes)]);
        assert_eq!(gone(ROOMY, None, 650), [(3, Reason::Bytes), (4, Reason::Bytes)]);
        assert_eq!(
            gone(Quota { bytes: 100, ..ROOMY }, None, 100),
            [3, 4, 1, 2, 0].map(|index| (index, Reason::Bytes))
        );
        assert_eq!(gone(Quota { events: 39, ..ROOMY }, None, 0), [(3, Reason::Count), (4, Reason::Count)]);
        let tight = Quota { headroom: 200, ..ROOMY };
        assert_eq!(gone(tight, Some(300), 100), []);
        assert_eq!(gone(tight, Some(299), 100), [(3, Reason::Headroom)]);
        assert_eq!(gone(tight, None, 100), [], "a file system that does not report its free space");
    }

    #[test]
    fn segments_in_use_stay_and_expired_ones_are_dropped_whatever_their_class() {
        let day = Duration::from_secs(86_400);
        let all = [
            Held { in_use: true, ..held(Class::Details, 500) },
            held(Class::Details, 500),
            Held { age: Some(8 * day), ..held(Class::Alerts, 1) },
            Held { age: Some(8 * day), in_use: true, ..held(Class::Alerts, 1) },
            Held { age: Some(7 * day), ..held(Class::Alerts, 1) },
        ];
        let quota = Quota { age_max: Some(7 * day), ..ROOMY };
        assert_eq!(plan(&all, &quota, None, 100), [(2, Reason::Age), (1, Reason::Bytes)]);
    }

    proptest! {
        #[test]
        fn there_is_space_or_nothing_left_to_drop(
            sizes in proptest::collection::vec((0u64..200, 0u64..50, 0usize..4, any::<bool>()), 0..30),
            quota in 0u64..3000, events in 0u64..1000, free in proptest::option::of(0u64..1000), need in 0u64..300,
        ) {
            let all: Vec<Held> = sizes
                .iter()
                .map(|&(bytes, events, class, in_use)| Held { class: ORDER[class], bytes, events, age: None, in_use })
                .collect();
            let limits = Quota { bytes: quota, events, age_max: None, headroom: 100 };
            let gone = plan(&all, &limits, free, need);
            let mut once: Vec<usize> = gone.iter().map(|(index, _)| *index).collect();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), gone.len());
            prop_assert!(once.iter().all(|index| !all[*index].in_use));
            let room = |gone: &[(usize, Reason)]| {
                let freed: u64 = gone.iter().map(|(index, _)| all[*index].bytes).sum();
                let lost: u64 = gone.iter().map(|(index, _)| all[*index].events).sum();
                all.iter().map(|held| held.bytes).sum::<u64>() - freed + need <= quota
                    && all.iter().map(|held| held.events).sum::<u64>() - lost <= events
                    && free.is_none_or(|free| free + freed >= 100 + need)
            };
            let idle = all.iter().filter(|held| !held.in_use).count();
            prop_assert!(room(&gone) || gone.len() == idle);
            prop_assert!(gone.is_empty() || !room(&gone[..gone.len() - 1]), "one less would not be enough");
        }
    }
}
