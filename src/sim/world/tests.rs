use super::camera_model::FrameContent;
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

/// Each class is counted as itself: no road user is mistaken for one that it hides or is hidden by.
#[test]
fn in_a_perfect_world_each_class_is_counted_as_itself() {
    let scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    let report = run(1, 6.0, &scenario);
    let of = |counts: &BTreeMap<String, u64>, class: &str| {
        let own = counts.iter().filter(|(name, _)| name.ends_with(class));
        own.map(|(_, count)| count).sum::<u64>()
    };
    for class in ["car", "truck", "bus", "motorcycle", "bicycle", "person"] {
        let (counted, truth) = (of(&report.counted, class), of(&report.truth, class));
        let (least, most) = if class == "person" { (80, 101) } else { (92, 106) };
        assert!(
            truth > 100 && counted * 100 >= truth * least && counted * 100 <= truth * most,
            "{class}: {counted} of {truth}\n{}",
            report.table()
        );
    }
}

/// Frames that a camera drops show as gaps in its sequence numbers: all except those at the very end.
#[test]
fn the_device_counts_what_its_camera_drops() {
    let mut scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    scenario.camera.drop_share = 0.05;
    scenario.camera.stalls = 200.0;
    scenario.camera.unplugged = 50.0;
    let report = run(1, 0.5, &scenario);
    let counted = report.counters.frames_camera_dropped;
    assert!(report.camera_drops > 100 && report.faults.len() == 2, "{}", report.table());
    assert!(counted.abs_diff(report.camera_drops) <= report.boots, "{counted}\n{}", report.table());
}

#[test]
fn the_same_seed_is_the_same_world() {
    let scenario = Scenario { begins_at: 7.0, ..Scenario::default() };
    assert_eq!(run(5, 0.5, &scenario), run(5, 0.5, &scenario));
    assert_ne!(run(6, 0.5, &scenario).made, run(5, 0.5, &scenario).made);
}

/// The checks can fail: a disk that reports success and does nothing loses committed events.
#[test]
fn a_disk_that_fakes_syncs_is_detected() {
    let mut scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    scenario.disk.power_cuts = 96.0;
    scenario.link.outages = 200.0;
    scenario.link.outage_mean_s = 4000.0;
    let honest = run(3, 2.0, &scenario);
    honest.verdict().unwrap();
    assert!(honest.cut > 0 && honest.boots > 3, "{}", honest.table());
    let world = World::new(3, 2.0, &scenario, None).unwrap();
    world.disk.set_fault_modes(crate::sim::disk::FaultModes {
        ignores_syncs: true,
        ..crate::sim::disk::FaultModes::default()
    });
    let report = world.run(&mut |_| {}).unwrap();
    assert!(report.lost > 10 && report.verdict().is_err(), "{}", report.table());
}

/// A receiver that gets wrong identities, or a device that marks a wrong time as synchronised.
#[test]
fn a_wrong_identity_and_a_wrong_time_are_detected() {
    let scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    let misread = |number, boot| {
        let world = World::new(3, 0.2, &scenario, None).unwrap();
        world.server.misread(number, boot);
        world.run(&mut |_| {}).unwrap()
    };
    let right = misread(0, 0);
    right.verdict().unwrap();
    let renumbered = misread(1, 0);
    assert!(renumbered.unseen_repeats > right.received / 2, "{}", renumbered.table());
    let late = misread(0, 10 * SECOND);
    assert_eq!((late.unseen_repeats, late.lost), (0, 0));
    assert!(late.stamped_wrong > late.received / 2, "{}", late.table());
    for wrong in [renumbered, late] {
        wrong.verdict().unwrap_err();
    }
}

/// A receiver that confirms and stores nothing.
#[test]
fn a_receiver_that_confirms_without_storing_is_detected() {
    let world = World::new(3, 0.2, &Scenario { begins_at: 8.0, ..Scenario::perfect() }, None).unwrap();
    world.server.confirm_without_storing();
    let report = world.run(&mut |_| {}).unwrap();
    assert_eq!((report.received, report.lost), (0, report.made), "{}", report.table());
    report.verdict().unwrap_err();
}

/// A network that is much slower than the camera: newer frames replace older ones, and at most a ring of them waits.
#[test]
fn waiting_events_and_frames_are_bounded_when_the_network_is_slow() {
    let mut scenario = Scenario { begins_at: 8.0, ..Scenario::perfect() };
    scenario.detector.latency_ms = 5000.0;
    let report = run(3, 0.2, &scenario);
    assert!(report.counters.frames_ring_dropped > 1000 && report.waiting_max < 20, "{}", report.table());
}

/// Rendered frames and truth show the same street, also after the hour has changed the traffic density.
#[test]
fn rendered_frames_show_the_street_of_the_truth() {
    let scenario = Scenario { rendered: true, begins_at: 6.0, size: [320, 180], ..Scenario::perfect() };
    let mut camera_model = CameraModel::new(2, &scenario).unwrap();
    for minute in 0..3 {
        camera_model.hour(6.0 + minute as f32);
        for second in 0..20 {
            let now = (minute * 60 + second) * SECOND;
            let FrameContent::Picture(with) = camera_model.frame(now) else { panic!("no picture") };
            let truth = camera_model.truth(now).to_vec();
            let drawn = camera_model.drawn();
            for user in drawn.iter().filter(|user| !user.is_hard(320)) {
                let same = truth
                    .iter()
                    .find(|truth| truth.id == user.id)
                    .expect("every rendered road user is in the truth");
                assert_eq!((same.kind, same.at), (user.kind, user.at));
            }
            assert_eq!(with.len(), 320 * 180 * 3);
        }
    }
}
