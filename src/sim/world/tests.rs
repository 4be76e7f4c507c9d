use super::*;

fn run(seed: u64, hours: f64, scenario: &Scenario) -> Report {
    World::new(seed, hours, scenario, None).unwrap().run(&mut |_| {}).unwrap()
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

#[test]
fn in_a_perfect_world_everything_arrives_and_nearly_everything_is_counted() {
    let scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    let report = run(1, 2.0, &scenario);
    report.verdict().unwrap();
    assert_eq!((report.made, report.cut, report.dropped, report.repeats), (report.received, 0, 0, 0));
    let (counted, truth) = (sum(&report.counted), sum(&report.truth));
    assert!(truth > 300, "{truth}");
    assert!(
        counted * 100 >= truth * 93 && counted * 100 <= truth * 104,
        "{counted} of {truth}\n{}",
        report.table()
    );
}

#[test]
fn the_same_seed_is_the_same_world() {
    let scenario = Scenario { begins_at: 7.0, ..Scenario::default() };
    assert_eq!(run(5, 0.5, &scenario), run(5, 0.5, &scenario));
    assert_ne!(run(6, 0.5, &scenario).made, run(5, 0.5, &scenario).made);
}

/// The checks can fail: a disk that says yes and does nothing loses what was promised.
#[test]
fn a_world_whose_disk_lies_is_found_out() {
    let mut scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    scenario.disk.power_cuts = 96.0;
    scenario.link.outages = 200.0;
    scenario.link.outage_mean_s = 4000.0;
    let honest = run(3, 2.0, &scenario);
    honest.verdict().unwrap();
    assert!(honest.cut > 0 && honest.boots > 3, "{}", honest.table());
    let world = World::new(3, 2.0, &scenario, None).unwrap();
    world.disk.set_moods(crate::sim::disk::Moods { lies: true, ..crate::sim::disk::Moods::default() });
    let lied = world.run(&mut |_| {}).unwrap();
    assert!(lied.lost > 10 && lied.verdict().is_err(), "{}", lied.table());
}
