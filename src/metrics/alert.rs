//! Rules that watch metrics (S18): when one begins to hold, and when it holds no more. Pure: gets the figures and the time, once a second or so,
//! and calls back.
//!
//! ```text
//!             the condition holds for `hold`                the value is at `clear` or better for `hold`
//!   quiet ────────────────────────────────────► active ────────────────────────────────────────────────► quiet
//!                     alert, active                                     alert, not active
//! ```
//! A value is the mean over the rule's window (gauges), the increase over it (counters), or what it is now (ages, and a window of 0). What
//! does not exist (the temperature of a board without a sensor) is neither above nor below anything: only a rule for absence sees it.
//! Memory is fixed when the rules are given.

use std::fmt;
use std::time::Duration;

use crate::metrics::table::{CameraStats, Kind, Machine, Metric, Stats, Storage, Unit};
use crate::platform::clock::Mono;

/// Samples of a window; a longer window has longer steps between them.
const STEPS: usize = 30;

/// A metric of the table, by its event and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Of the device: the `stats` event.
    Stats(usize),
    /// Of the spool: the `storage` event.
    Storage(usize),
    /// Of each camera: the `camera.stats` event.
    Camera(usize),
    /// Of the machine: the `machine` event.
    Machine(usize),
}

/// A group's name, its metrics, and the one at a place.
type Group = (&'static str, &'static [Metric], fn(usize) -> Watched);

/// Each group with its metrics, by the name that users write.
const GROUPS: [Group; 4] = [
    ("stats", Stats::METRICS, Watched::Stats),
    ("storage", Storage::METRICS, Watched::Storage),
    ("camera", CameraStats::METRICS, Watched::Camera),
    ("machine", Machine::METRICS, Watched::Machine),
];

impl Watched {
    /// The metric that users call `machine.temperature_millicelsius`.
    pub fn find(name: &str) -> Option<Self> {
        let (group, metric) = name.split_once('.')?;
        let (_, metrics, make) = GROUPS.iter().find(|(name, _, _)| *name == group)?;
        metrics.iter().position(|row| row.name == metric).map(make)
    }

    /// The names of all metrics that can be watched.
    pub fn names() -> impl Iterator<Item = String> {
        GROUPS
            .iter()
            .flat_map(|(group, metrics, _)| metrics.iter().map(move |row| format!("{group}.{}", row.name)))
    }

    /// Its row of the table.
    pub const fn metric(self) -> &'static Metric {
        match self {
            Watched::Stats(index) => &Stats::METRICS[index],
            Watched::Storage(index) => &Storage::METRICS[index],
            Watched::Camera(index) => &CameraStats::METRICS[index],
            Watched::Machine(index) => &Machine::METRICS[index],
        }
    }

    /// Its value now; `None` if it does not exist.
    fn value(self, figures: &Figures<'_>, camera: usize) -> Option<u64> {
        let value = match self {
            Watched::Stats(index) => figures.stats.values()[index],
            Watched::Storage(index) => figures.storage?.values()[index],
            Watched::Camera(index) => figures.cameras.get(camera)?.values()[index],
            Watched::Machine(index) => figures.machine.values()[index],
        };
        self.metric().shown(value)
    }
}

/// All figures at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'a> {
    /// Of the device.
    pub stats: &'a Stats,
    /// Of the spool, if it has a folder.
    pub storage: Option<&'a Storage>,
    /// Of each camera.
    pub cameras: &'a [CameraStats],
    /// Of the machine.
    pub machine: &'a Machine,
}

/// When a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The value is above `limit`; it recovers at `clear` or below.
    Above {
        /// The limit.
        limit: u64,
        /// Not above the limit.
        clear: u64,
    },
    /// The value is below `limit`; it recovers at `clear` or above.
    Below {
        /// The limit.
        limit: u64,
        /// Not below the limit.
        clear: u64,
    },
    /// The value does not exist.
    Absent,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name in alerts.
    pub name: String,
    /// What it watches; a metric of cameras is watched for each of them.
    pub metric: Watched,
    /// When it holds.
    pub when: When,
    /// Over which time the value is formed.
    pub window: Duration,
    /// How long the condition must hold, and how long the recovery.
    pub hold: Duration,
}

impl Rule {
    /// The camera of its state number `index`, if it watches cameras.
    fn camera(&self, index: usize) -> Option<usize> {
        matches!(self.metric, Watched::Camera(_)).then_some(index)
    }
}

/// A rule began to hold, or holds no more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Which camera, if it watches cameras.
    pub camera: Option<usize>,
    /// Whether it holds now.
    pub active: bool,
    /// The value that decided.
    pub value: Option<u64>,
    /// It holds no more because the rule is no longer there.
    pub removed: bool,
}

impl Change<'_> {
    /// Its limit, if it has one.
    pub const fn limit(&self) -> Option<u64> {
        match self.rule.when {
            When::Above { limit, .. } | When::Below { limit, .. } => Some(limit),
            When::Absent => None,
        }
    }
}

/// In words: `rate_permille is 51.2 %, below 83 % for 300 s`.
impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = self.rule.metric.metric();
        if self.removed {
            return write!(f, "{}: the rule was removed or changed", self.rule.name);
        }
        write!(f, "{}: {} ", self.rule.name, metric.name)?;
        let (word, limit) = match self.rule.when {
            When::Above { limit, .. } => ("above", limit),
            When::Below { limit, .. } => ("below", limit),
            When::Absent => return f.write_str(if self.active { "does not exist" } else { "exists again" }),
        };
        match self.value {
            Some(value) if metric.kind == Kind::Counter => {
                write!(f, "grew by {}", Shown(metric.unit, value))?;
            }
            Some(value) => write!(f, "is {}", Shown(metric.unit, value))?,
            None => f.write_str("does not exist")?,
        }
        let seconds = (self.rule.window + self.rule.hold).as_secs();
        match self.active {
            true => write!(f, ", {word} {} for {seconds} s", Shown(metric.unit, limit)),
            false => write!(f, ", no longer {word} {}", Shown(metric.unit, limit)),
        }
    }
}

/// A value with its unit, for people.
struct Shown(Unit, u64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(unit, value) = *self;
        let thousandths = value as f64 / 1e3;
        match unit {
            Unit::Count => write!(f, "{value}"),
            Unit::Bytes => write!(f, "{:.1} MiB", value as f64 / f64::from(1 << 20)),
            Unit::Milliseconds => write!(f, "{thousandths:.0} s"),
            Unit::Microseconds => write!(f, "{thousandths:.1} ms"),
            Unit::Permille => write!(f, "{:.1} %", value as f64 / 10.0),
            Unit::Millihertz => write!(f, "{thousandths:.2} a second"),
            Unit::Kilohertz => write!(f, "{thousandths:.0} MHz"),
            Unit::Millicelsius => write!(f, "{thousandths:.1} °C"),
        }
    }
}

/// The values of a window, in steps.
#[derive(Debug, Clone)]
struct Window {
    span: Duration,
    /// Sum and number of a step's values; of a counter its first value.
    steps: [(u64, u32); STEPS],
    /// Index of the newest step.
    newest: usize,
    step_began: Option<Mono>,
    first: Option<Mono>,
}

impl Window {
    const fn new(span: Duration) -> Self {
        Window { span, steps: [(0, 0); STEPS], newest: 0, step_began: None, first: None }
    }

    /// Adds the value of `now`, and returns the mean, or (a counter) the increase, over the window. `None` until the window is full.
    fn add(&mut self, now: Mono, value: u64, is_counter: bool) -> Option<u64> {
        let step = self.span / STEPS as u32;
        if step.is_zero() {
            return Some(value);
        }
        let first = *self.first.get_or_insert(now);
        match self.step_began {
            Some(began) if now.since(began) < step => {}
            // A pause longer than the window leaves nothing of it.
            Some(began) if now.since(began) > self.span => {
                *self = Window::new(self.span);
                self.first = Some(now);
                self.step_began = Some(now);
            }
            began => {
                self.newest = began.map_or(0, |_| (self.newest + 1) % STEPS);
                self.steps[self.newest] = (0, 0);
                self.step_began = Some(now);
            }
        }
        let newest = &mut self.steps[self.newest];
        if !is_counter {
            *newest = (newest.0.saturating_add(value), newest.1.saturating_add(1));
        } else if newest.1 == 0 {
            *newest = (value, 1);
        }
        if now.since(first) < self.span.mul_f64(0.95) {
            return None;
        }
        let used = self.steps.iter().filter(|(_, count)| *count > 0);
        if is_counter {
            // A counter only grows: the smallest is the oldest.
            return used.map(|(first, _)| *first).min().map(|oldest| value.saturating_sub(oldest));
        }
        let (sum, count) = used.fold((0u128, 0u64), |(sum, count), (more, number)| {
            (sum + u128::from(*more), count + u64::from(*number))
        });
        u64::try_from(sum / u128::from(count.max(1))).ok()
    }
}

/// State of a rule for the device or for one camera.
#[derive(Debug, Clone)]
struct State {
    window: Window,
    /// Since when the rule holds, and the value that decided.
    active: Option<(Mono, Option<u64>)>,
    /// Since when the condition of a change holds.
    since: Option<Mono>,
    /// When the rule was first looked at.
    first: Option<Mono>,
}

/// All rules and their states.
#[derive(Debug, Clone)]
pub struct Alerts {
    rules: Vec<Rule>,
    /// For each rule one state, or one for each camera.
    states: Vec<Vec<State>>,
    cameras: usize,
}

impl Alerts {
    /// Rules for a device with this many cameras. Allocates all memory.
    pub fn new(rules: Vec<Rule>, cameras: usize) -> Self {
        let states = rules
            .iter()
            .map(|rule| {
                let count = if rule.camera(0).is_some() { cameras } else { 1 };
                let state =
                    State { window: Window::new(rule.window), active: None, since: None, first: None };
                vec![state; count]
            })
            .collect();
        Alerts { rules, states, cameras }
    }

    /// Takes other rules. A rule that stays as it is keeps its state; `on` is called for each that held and is no longer there.
    pub fn replace(&mut self, rules: Vec<Rule>, on: &mut dyn FnMut(Change<'_>)) {
        let cameras = self.cameras;
        let old = std::mem::replace(self, Alerts::new(rules, cameras));
        for (rule, states) in old.rules.iter().zip(old.states) {
            if let Some(index) = self.rules.iter().position(|new| new == rule) {
                self.states[index] = states;
                continue;
            }
            for (index, _) in states.iter().enumerate().filter(|(_, state)| state.active.is_some()) {
                on(Change { rule, camera: rule.camera(index), active: false, value: None, removed: true });
            }
        }
    }

    /// Heap memory, bytes, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        self.states.iter().map(|states| states.len() * size_of::<State>()).sum::<usize>()
            + self.rules.len() * size_of::<Rule>()
    }

    /// How many rules hold now.
    pub fn active(&self) -> u64 {
        self.states.iter().flatten().filter(|state| state.active.is_some()).count() as u64
    }

    /// Each rule with its camera, if it has one, and if it holds: since when, and what began.
    pub fn states(&self) -> impl Iterator<Item = (&Rule, Option<usize>, Option<(Mono, Change<'_>)>)> {
        self.rules.iter().zip(&self.states).flat_map(|(rule, states)| {
            states.iter().enumerate().map(move |(index, state)| {
                let camera = rule.camera(index);
                let began = |value| Change { rule, camera, active: true, value, removed: false };
                (rule, camera, state.active.map(|(since, value)| (since, began(value))))
            })
        })
    }

    /// Looks at the figures of `now`; calls `on` for each rule that begins to hold or holds no more.
    pub fn evaluate(&mut self, now: Mono, figures: &Figures<'_>, on: &mut dyn FnMut(Change<'_>)) {
        for (rule, states) in self.rules.iter().zip(&mut self.states) {
            for (index, state) in states.iter_mut().enumerate() {
                let value = rule.metric.value(figures, index);
                if let Some(decisive) = state.step(now, rule, value) {
                    let (camera, active) = (rule.camera(index), state.active.is_some());
                    on(Change { rule, camera, active, value: decisive, removed: false });
                }
            }
        }
    }
}

impl State {
    /// Takes the value of `now`. Returns the value that decided, if the state changes.
    fn step(&mut self, now: Mono, rule: &Rule, value: Option<u64>) -> Option<Option<u64>> {
        let kind = rule.metric.metric().kind;
        let over_window = match (kind, value) {
            (Kind::Age, Some(value)) => Some(value),
            // What has never happened has not happened since the rule was first looked at.
            (Kind::Age, None) => {
                let first = *self.first.get_or_insert(now);
                u64::try_from(now.since(first).as_millis()).ok()
            }
            (_, None) => None,
            (_, Some(value)) => self.window.add(now, value, kind == Kind::Counter),
        };
        let is_active = self.active.is_some();
        // Whether the condition of the next change holds: of the beginning, or of the recovery.
        let holds = match (rule.when, over_window) {
            (When::Absent, _) => Some(value.is_none() != is_active),
            (When::Above { limit, clear }, Some(value)) => {
                Some(if is_active { value <= clear } else { value > limit })
            }
            (When::Below { limit, clear }, Some(value)) => {
                Some(if is_active { value >= clear } else { value < limit })
            }
            (When::Above { .. } | When::Below { .. }, None) => None,
        };
        match holds {
            // Nobody knows: what was, stays.
            None => None,
            Some(false) => {
                self.since = None;
                None
            }
            Some(true) => {
                let since = *self.since.get_or_insert(now);
                if now.since(since) < rule.hold {
                    return None;
                }
                self.active = (!is_active).then_some((now, over_window));
                self.since = None;
                Some(over_window)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    fn rule(metric: &str, when: When, window: u64, hold: u64) -> Rule {
        let metric = Watched::find(metric).unwrap_or_else(|| panic!("{metric}"));
        Rule {
            name: "rule".into(),
            metric,
            when,
            window: Duration::from_secs(window),
            hold: Duration::from_secs(hold),
        }
    }

    #[test]
    fn a_rule_that_stays_keeps_its_state_and_one_that_goes_ends_its_alert() {
        let hot =
            rule("machine.temperature_millicelsius", When::Above { limit: 80_000, clear: 75_000 }, 0, 0);
        let full = Rule {
            name: "full".into(),
            ..rule("machine.rss_bytes", When::Above { limit: 9, clear: 9 }, 0, 0)
        };
        let machine = Machine { temperature_millicelsius: 81_000, rss_bytes: 10, ..Machine::default() };
        let stats = Stats::default();
        let figures = Figures { stats: &stats, storage: None, cameras: &[], machine: &machine };
        let mut alerts = Alerts::new(vec![hot.clone(), full.clone()], 1);
        let said = std::cell::RefCell::new(Vec::new());
        let mut on = |change: Change<'_>| said.borrow_mut().push((change.rule.name.clone(), change.active));
        alerts.evaluate(at(1), &figures, &mut on);
        assert_eq!(said.take(), [("rule".to_owned(), true), ("full".to_owned(), true)]);
        // In another order, and one of them with another limit.
        let wider = Rule { when: When::Above { limit: 10, clear: 10 }, ..full };
        alerts.replace(vec![wider, hot], &mut on);
        assert_eq!(said.take(), [("full".to_owned(), false)]);
        assert_eq!(alerts.active(), 1);
        alerts.evaluate(at(2), &figures, &mut on);
        assert_eq!(said.take(), [], "what held goes on without another event");
    }

    /// The seconds at which the alert begins and ends, for a value a second.
    fn changes(rule: Rule, values: impl IntoIterator<Item = (Stats, Machine)>) -> Vec<(u64, bool, String)> {
        let mut alerts = Alerts::new(vec![rule], 1);
        let mut found = Vec::new();
        for (second, (stats, machine)) in values.into_iter().enumerate() {
            let figures = Figures { stats: &stats, storage: None, cameras: &[], machine: &machine };
            alerts.evaluate(at(second as u64), &figures, &mut |change| {
                found.push((second as u64, change.active, change.to_string()));
            });
        }
        found
    }

    fn temperature(degrees: u64) -> (Stats, Machine) {
        (Stats::default(), Machine { temperature_millicelsius: degrees * 1000, ..Machine::default() })
    }

    fn absent() -> (Stats, Machine) {
        (Stats::default(), Machine { temperature_millicelsius: u64::MAX, ..Machine::default() })
    }

    const HOT: When = When::Above { limit: 80_000, clear: 75_000 };

    #[test]
    fn an_alert_begins_after_its_hold_time_and_ends_below_the_clear_limit() {
        let hot = || rule("machine.temperature_millicelsius", HOT, 0, 10);
        let values = [(70, 20), (81, 9), (70, 5), (85, 30), (78, 50), (74, 30)];
        let values = values
            .into_iter()
            .flat_map(|(degrees, seconds)| std::iter::repeat_n(temperature(degrees), seconds));
        let expected = [
            (44, true, "rule: temperature_millicelsius is 85.0 °C, above 80.0 °C for 10 s".to_owned()),
            (124, false, "rule: temperature_millicelsius is 74.0 °C, no longer above 80.0 °C".to_owned()),
        ];
        assert_eq!(changes(hot(), values), expected);
        // A sensor that fails changes nothing, in either state.
        let failing = std::iter::repeat_n(temperature(90), 20).chain(std::iter::repeat_n(absent(), 500));
        assert_eq!(changes(hot(), failing).len(), 1);
        let gone = std::iter::repeat_n(temperature(50), 5).chain(std::iter::repeat_n(absent(), 30));
        let gone = gone.chain(std::iter::repeat_n(temperature(50), 30));
        let missing = rule("machine.temperature_millicelsius", When::Absent, 0, 10);
        let found: Vec<(u64, bool)> =
            changes(missing, gone).into_iter().map(|(at, on, _)| (at, on)).collect();
        assert_eq!(found, [(15, true), (45, false)]);
    }

    #[test]
    fn a_window_takes_the_mean_of_a_gauge_and_the_increase_of_a_counter() {
        let warm =
            rule("machine.temperature_millicelsius", When::Above { limit: 60_000, clear: 60_000 }, 60, 0);
        // Every other second is hot: the mean is 70; then half an hour of 50.
        let swinging = (0..120).map(|second| temperature(if second % 2 == 0 { 90 } else { 50 }));
        let found = changes(warm, swinging.chain(std::iter::repeat_n(temperature(50), 200)));
        let [(begins, true, _), (ends, false, _)] = found[..] else { panic!("{found:?}") };
        assert!((57..=62).contains(&begins) && (140..=180).contains(&ends), "{found:?}");

        let dropping = |second: u64| Stats { events_dropped: (second / 10).min(20), ..Stats::default() };
        let drops = rule("stats.events_dropped", When::Above { limit: 2, clear: 0 }, 60, 0);
        let found = changes(drops, (0..400).map(|second| (dropping(second), Machine::default())));
        let [(begins, true, ref text), (ends, false, _)] = found[..] else { panic!("{found:?}") };
        assert!((57..=62).contains(&begins) && (255..=265).contains(&ends), "{found:?}");
        assert!(text.contains("events_dropped grew by"), "{text}");
    }

    #[test]
    fn cameras_are_watched_one_by_one() {
        let slow = Rule {
            name: "low frame rate".into(),
            ..rule("camera.rate_permille", When::Below { limit: 800, clear: 900 }, 0, 5)
        };
        let mut alerts = Alerts::new(vec![slow], 2);
        let mut found = Vec::new();
        for second in 0..40 {
            let rate = |rate_permille| CameraStats { rate_permille, ..CameraStats::default() };
            let cameras = [rate(1000), rate(if (10..20).contains(&second) { 500 } else { 950 })];
            let (stats, machine) = (Stats::default(), Machine::default());
            let figures = Figures { stats: &stats, storage: None, cameras: &cameras, machine: &machine };
            alerts.evaluate(at(second), &figures, &mut |change| {
                found.push((second, change.camera, change.active));
            });
            assert_eq!(alerts.active(), u64::from((15..25).contains(&second)), "{second}");
        }
        assert_eq!(found, [(15, Some(1), true), (25, Some(1), false)]);
        assert_eq!(alerts.states().filter(|(_, camera, held)| camera.is_some() && held.is_none()).count(), 2);
    }

    #[test]
    fn what_never_happened_is_as_old_as_the_rule() {
        let never = rule("stats.last_delivery_age_ms", When::Above { limit: 60_000, clear: 60_000 }, 0, 0);
        let stats =
            |last_delivery_age_ms| (Stats { last_delivery_age_ms, ..Stats::default() }, Machine::default());
        let values = std::iter::repeat_n(stats(u64::MAX), 100).chain(std::iter::repeat_n(stats(500), 5));
        let found: Vec<(u64, bool)> =
            changes(never, values).into_iter().map(|(at, on, _)| (at, on)).collect();
        assert_eq!(found, [(61, true), (100, false)]);
    }

    #[test]
    fn every_metric_has_a_name() {
        let names: Vec<String> = Watched::names().collect();
        assert!(names.len() > 80, "{}", names.len());
        for name in names {
            let found = Watched::find(&name).unwrap_or_else(|| panic!("{name}"));
            assert!(name.ends_with(found.metric().name));
        }
        assert_eq!(Watched::find("machine.temperature"), None);
        assert_eq!(Watched::find("temperature_millicelsius"), None);
    }
}
