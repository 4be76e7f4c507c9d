use super::*;

fn run(street: Street, demand: Demand, seed: u64, seconds: u32, mut see: impl FnMut(&Traffic)) -> Traffic {
    let mut traffic = Traffic::new(street, demand, seed);
    for second in 1..=seconds * 5 {
        traffic.advance(f64::from(second) * 0.2);
        see(&traffic);
    }
    traffic
}

fn busy() -> Demand {
    Demand { per_hour: [200.0, 120.0, 900.0, 80.0, 60.0, 120.0], ..Demand::default() }
}

#[test]
fn a_seed_is_the_same_street_every_time() {
    let street = Street { light: Some([20.0, 45.0]), ..Street::default() };
    let one = run(street, busy(), 3, 300, |_| {});
    let mut two = Traffic::new(street, busy(), 3);
    two.advance(300.0);
    assert_eq!(one.users(), two.users());
    assert!(one.users().len() > 10);
    assert_ne!(run(street, busy(), 4, 300, |_| {}).users(), one.users());
}

#[test]
fn arrivals_match_the_demand() {
    let demand = Demand { per_hour: [60.0, 30.0, 300.0, 0.0, 20.0, 40.0], parked: 0.0, ..Demand::default() };
    let mut first_seen = std::collections::BTreeMap::new();
    run(Street::default(), demand, 11, 4 * 3600, |traffic| {
        for user in traffic.users() {
            first_seen.insert(user.id, user.kind);
        }
    });
    for kind in Kind::ALL {
        let came = first_seen.values().filter(|&&other| other == kind).count() as f32;
        let wanted = demand.per_hour[kind.index()] * 4.0;
        // Four standard deviations of independent arrivals.
        assert!((came - wanted).abs() <= 4.0 * wanted.sqrt(), "{kind:?}: {came} arrived, {wanted} expected");
    }
}

/// Vehicles that go the same way in one lane do not overlap.
fn overlaps(traffic: &Traffic) -> usize {
    let moving: Vec<_> =
        traffic.users().iter().filter(|user| !user.parked && user.kind != Kind::Person).collect();
    let mut count = 0;
    for (index, a) in moving.iter().enumerate() {
        for b in &moving[index + 1..] {
            let (p, q) = (a.pose(0.0), b.pose(0.0));
            let same_way = p.heading.cos * q.heading.cos > 0.99;
            let beside = (p.at[1] - q.at[1]).abs() < (a.size[1] + b.size[1]) / 2.0 - 0.1;
            let along = (p.at[0] - q.at[0]).abs() < (a.size[0] + b.size[0]) / 2.0 - 0.1;
            count += usize::from(same_way && beside && along);
        }
    }
    count
}

#[test]
fn no_vehicle_drives_into_the_one_ahead() {
    let mut seen = 0;
    let mut wrong = 0;
    for seed in 0..6 {
        let street = Street { light: (seed % 2 == 0).then_some([25.0, 50.0]), ..Street::default() };
        run(street, busy(), seed, 600, |traffic| {
            seen += traffic.users().len();
            wrong += overlaps(traffic);
        });
    }
    // A vehicle that turns back may cut into a queue: a few, and only briefly.
    assert!(seen > 100_000 && wrong * 2000 < seen, "{wrong} overlaps in {seen} places");
}

#[test]
fn red_stops_those_before_the_line_and_green_lets_them_go() {
    let street = Street { light: Some([30.0, 60.0]), ..Street::default() };
    let demand = Demand { turn_back: 0.0, hesitate: 0.0, cross: 0.0, ..busy() };
    let (mut stood, mut ran_red) = (0, 0);
    let mut before = std::collections::BTreeMap::new();
    let traffic = run(street, demand, 5, 900, |traffic| {
        let red = traffic.now() % 60.0 < 29.0 && traffic.now() % 60.0 > 6.0;
        for user in traffic.users().iter().filter(|user| !user.parked && user.kind != Kind::Person) {
            let pose = user.pose(0.0);
            let to_line = (street.crossing_x - pose.at[0]) * pose.heading.cos - 3.0 - user.size[0] / 2.0;
            stood += usize::from(pose.speed < 0.1 && (0.0..4.0).contains(&to_line) && red);
            let was = before.insert(user.id, to_line);
            ran_red += usize::from(red && was.is_some_and(|was| was > 0.5) && to_line < -0.5);
        }
    });
    assert!(stood > 100, "only {stood} stopped at the line");
    assert_eq!(ran_red, 0);
    assert!(
        traffic.users().len() < ROAD_USERS_MAX / 2,
        "the queue never dissolves: {}",
        traffic.users().len()
    );
}

#[test]
fn some_turn_back_some_cross_and_some_stop() {
    let demand = Demand { turn_back: 0.3, cross: 0.5, hesitate: 0.3, ..Demand::default() };
    let mut sides = std::collections::BTreeMap::new();
    let mut ways = std::collections::BTreeMap::new();
    let mut stops = std::collections::BTreeSet::new();
    run(Street::default(), demand, 8, 1800, |traffic| {
        for user in traffic.users().iter().filter(|user| !user.parked) {
            let pose = user.pose(0.0);
            if user.kind == Kind::Person {
                sides.entry(user.id).or_insert_with(std::collections::BTreeSet::new).insert(pose.at[1] > 0.0);
            } else {
                ways.entry(user.id)
                    .or_insert_with(std::collections::BTreeSet::new)
                    .insert(pose.heading.cos > 0.0);
                if pose.speed < 0.05 {
                    stops.insert(user.id);
                }
            }
        }
    });
    let both = |of: &std::collections::BTreeMap<u32, std::collections::BTreeSet<bool>>| {
        of.values().filter(|seen| seen.len() == 2).count()
    };
    assert!(both(&sides) > 15, "{} crossed", both(&sides));
    assert!(both(&ways) > 15, "{} turned back", both(&ways));
    assert!(stops.len() > 20, "{} stopped", stops.len());
}

#[test]
fn a_quiet_street_returns_when_it_next_moves() {
    let demand = Demand { per_hour: [0.0, 0.0, 6.0, 0.0, 0.0, 0.0], parked: 0.0, ..Demand::default() };
    let mut skipping = Traffic::new(Street::default(), demand, 2);
    let mut stepping = skipping.clone();
    let mut skips = 0;
    while skipping.now() < 7200.0 {
        if let Some(until) = skipping.quiet_until() {
            skipping.skip_to(until);
            skips += 1;
        }
        skipping.advance(skipping.now() + 1.0);
    }
    stepping.advance(skipping.now() + 0.01);
    assert!(skips > 4);
    let count = |traffic: &Traffic| traffic.users().iter().map(|user| user.id).collect::<Vec<_>>();
    assert_eq!(count(&skipping), count(&stepping));
}
