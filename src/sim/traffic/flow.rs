//! One step of the traffic: arrivals, braking, departures.

use super::{Kind, Path, ROAD_USERS_MAX, RoadUser, STEP_S, Street, Traffic};
use crate::sim::random::Random;
use crate::sim::space::{Heading, vec3};

/// Intelligent Driver Model: maximum acceleration and comfortable deceleration in m/s², time gap in s, standstill distance in m.
const ACCELERATION: f32 = 1.6;
const BRAKING: f32 = 2.2;
const TIME_GAP_S: f32 = 1.3;
const STANDING_GAP_M: f32 = 2.0;
/// Braking limit of tyres, m/s².
const BRAKING_MAX: f32 = 8.0;
/// Look-ahead distance of drivers, metres.
const LOOK_M: f32 = 70.0;
/// Free metres behind the entry position of a vehicle.
const ENTRY_M: f32 = 9.0;
/// Length of a gap in the traffic, seconds.
const GAP_S: f32 = 5.0;
/// After standing this long, a road user moves on slowly through anything: prevents deadlocks.
const STUCK_S: f32 = 60.0;
/// Speed during a U-turn, m/s.
const TURNING_SPEED: f32 = 4.0;

/// Ranges of length, width, height in metres by class, and of the desired speed in m/s.
const SIZES: [[[f32; 2]; 4]; 6] = [
    [[0.35, 0.45], [0.45, 0.62], [1.45, 1.95], [0.8, 1.9]],
    [[1.65, 1.85], [0.45, 0.6], [1.0, 1.1], [3.5, 7.5]],
    [[3.6, 4.9], [1.65, 1.9], [1.38, 1.85], [9.0, 15.0]],
    [[1.95, 2.3], [0.7, 0.85], [1.05, 1.3], [9.0, 16.0]],
    [[9.0, 14.0], [2.45, 2.55], [2.9, 3.4], [8.0, 12.5]],
    [[5.2, 13.5], [1.95, 2.55], [1.8, 3.9], [8.0, 13.0]],
];

impl Traffic {
    pub(super) fn step(&mut self) {
        let dt = STEP_S as f32;
        self.now += STEP_S;
        for kind in Kind::ALL {
            if self.next[kind.index()] <= self.now {
                self.arrive(kind);
            }
        }
        let all = Everybody::of(&self.users);
        for (index, user) in self.users.iter_mut().enumerate() {
            if user.parked {
                continue;
            }
            let speed = match user.kind {
                Kind::Person => walk(user, &all),
                Kind::Bicycle | Kind::Car | Kind::Motorcycle | Kind::Bus | Kind::Truck => {
                    let red = red_ahead(&self.street, self.now, user, &all, index);
                    drive(user, index, &all, red, dt)
                }
            };
            user.at += (user.speed + speed) / 2.0 * dt;
            if speed < 0.05 {
                user.stands += dt;
            } else if speed > user.wish * 0.15 {
                user.stands = 0.0;
            }
            user.braking = speed < user.speed - 0.05 || speed < 0.05;
            user.speed = speed;
        }
        self.users.retain(|user| user.parked || user.at < user.path.length());
    }

    fn arrive(&mut self, kind: Kind) {
        if self.users.len() >= ROAD_USERS_MAX {
            return;
        }
        let direction = match self.street.lanes {
            [0, _] => 1,
            [_, 0] => 0,
            [_, _] => self.random.below(2),
        };
        let direction = if kind == Kind::Person { self.random.below(2) } else { direction };
        let lane = self.random.below(usize::from(self.street.lanes[direction]));
        let start_x = Street::side(direction, self.reach(kind));
        let Some((gap, ahead)) = self.room_at(start_x, direction, kind) else { return };
        self.born += 1;
        let mut random = Random::stream(self.random.bits(), u64::from(self.born));
        let mut user = self.newcomer(kind, direction, lane, &mut random);
        // No vehicle enters faster than it can stop behind the end of a queue.
        user.speed = user.speed.min(ahead + (2.0 * BRAKING * gap).sqrt());
        self.users.push(user);
        self.next[kind.index()] = self.now + self.until_next(kind);
    }

    /// Free metres behind the last vehicle at an entry, and its speed; none if there is no space: then the vehicle waits outside and tries
    /// again in the next step.
    fn room_at(&self, start_x: f32, direction: usize, kind: Kind) -> Option<(f32, f32)> {
        if kind == Kind::Person {
            return Some((f32::INFINITY, 0.0));
        }
        let same_side = |user: &&RoadUser| {
            user.kind != Kind::Person && !user.parked && (user.pose(0.0).at[1] < 0.0) == (direction == 0)
        };
        let gap = |user: &RoadUser| {
            let from_entry =
                (user.pose(0.0).at[0] - start_x).abs() - user.size[0] / 2.0 - SIZES[kind.index()][0][1] / 2.0;
            (from_entry, user.speed)
        };
        let nearest = self.users.iter().filter(same_side).map(gap).min_by(|a, b| a.0.total_cmp(&b.0));
        let (gap, speed) = nearest.unwrap_or((f32::INFINITY, 0.0));
        (gap > ENTRY_M).then_some((gap - STANDING_GAP_M, speed))
    }

    fn reach(&self, kind: Kind) -> f32 {
        if kind == Kind::Person { self.street.walk_reach_m } else { self.street.reach_m }
    }

    fn newcomer(&self, kind: Kind, direction: usize, lane: usize, random: &mut Random) -> RoadUser {
        let looks = random.bits();
        let [length, width, height, wish] =
            SIZES[kind.index()].map(|[least, most]| random.range(least, most));
        let wish = if kind == Kind::Person { wish } else { wish * self.demand.pace };
        let (path, gives_way) = match kind {
            Kind::Person => self.walk_path(direction, random),
            Kind::Bicycle => (self.straight(direction, self.bicycle_y(direction)), None),
            Kind::Car | Kind::Motorcycle | Kind::Bus | Kind::Truck => {
                self.lane_path(kind, direction, lane, random)
            }
        };
        let stops = kind != Kind::Person && random.chance(self.demand.hesitate);
        let place = path.length() * random.range(0.35, 0.65);
        let hesitates = stops.then(|| (place, random.range(2.0, 12.0)));
        let speed = if kind == Kind::Person { wish } else { wish * 0.9 };
        let size = [length, width, height];
        RoadUser {
            id: self.born,
            kind,
            looks,
            size,
            parked: false,
            path,
            at: 0.0,
            speed,
            braking: false,
            wish,
            gives_way,
            hesitates,
            stands: 0.0,
        }
    }

    fn straight(&self, direction: usize, y: f32) -> Path {
        let forward = Street::side(1 - direction, 1.0);
        Path::through(&[[-forward * self.street.reach_m, y], [forward * self.street.reach_m, y]])
    }

    fn bicycle_y(&self, direction: usize) -> f32 {
        let lanes = self.street.lanes_m(direction);
        let from_middle =
            if self.street.cycle_m > 0.0 { lanes + self.street.cycle_m / 2.0 } else { lanes - 0.6 };
        Street::side(direction, from_middle)
    }

    /// A lane to its end, or a U-turn back on the other side.
    fn lane_path(
        &self,
        kind: Kind,
        direction: usize,
        lane: usize,
        random: &mut Random,
    ) -> (Path, Option<f32>) {
        let street = &self.street;
        let y = street.lane_y(direction, lane) + random.range(-0.25, 0.25);
        let two_ways = street.lanes[1 - direction] > 0;
        let nimble = matches!(kind, Kind::Car | Kind::Motorcycle);
        // Two vehicles that wait for each other's lane would wait for ever.
        let another = self.users.iter().any(|user| user.kind != Kind::Person && user.gives_way.is_some());
        if !(two_ways && nimble && random.chance(self.demand.turn_back)) || another {
            return (self.straight(direction, y), None);
        }
        let forward = Street::side(1 - direction, 1.0);
        let x = random.range(-8.0, 25.0);
        let outer = usize::from(street.lanes[1 - direction]) - 1;
        let mut path = Path::through(&[[-forward * street.reach_m, y], [x, y]]);
        let turn = path.length();
        path.turn_round(street.lane_y(1 - direction, outer));
        path.go_to([-forward * street.reach_m, street.lane_y(1 - direction, outer)]);
        (path, Some(turn))
    }

    /// Along the pavement; across the road; or there and back.
    fn walk_path(&self, direction: usize, random: &mut Random) -> (Path, Option<f32>) {
        let street = &self.street;
        let lateral = |random: &mut Random, side: usize| {
            Street::side(side, street.kerb_m(side) + random.range(0.15, 0.85) * street.pavement_m)
        };
        let side = random.below(2);
        let (y, across) = (lateral(random, side), lateral(random, 1 - side));
        let start = Street::side(1 - direction, street.walk_reach_m);
        let x = random.range(-15.0, 30.0);
        if random.chance(self.demand.cross) {
            let at_crossing = random.chance(0.6);
            let x = if at_crossing { street.crossing_x + random.range(-1.3, 1.3) } else { x };
            let kerb = Street::side(side, street.kerb_m(side) + 0.3);
            let path = Path::through(&[[start, y], [x, y], [x, kerb], [x, across], [-start, across]]);
            let before = (x - start).abs() + (kerb - y).abs();
            return (path, Some(before));
        }
        if random.chance(self.demand.turn_back) {
            return (Path::through(&[[start, y], [x, y], [start, y + 0.3]]), None);
        }
        (Path::through(&[[start, y], [-start, y]]), None)
    }

    /// Cars parked at the kerb, with some spaces free.
    pub(super) fn park(&mut self, random: &mut Random) {
        if self.street.parking_m <= 0.0 {
            return;
        }
        for direction in 0..2 {
            let y = Street::side(direction, self.street.kerb_m(direction) - self.street.parking_m / 2.0);
            let mut x = -self.street.reach_m * 0.6;
            while x < self.street.reach_m * 0.6 {
                x += random.range(5.6, 7.0);
                let crossing = (x - self.street.crossing_x).abs() < 7.0;
                if crossing || !random.chance(self.demand.parked) || self.users.len() >= ROAD_USERS_MAX / 4 {
                    continue;
                }
                self.born += 1;
                let kind = [Kind::Car, Kind::Truck, Kind::Motorcycle, Kind::Bicycle]
                    [random.weighted(&[0.86, 0.06, 0.04, 0.04])];
                let forward = Street::side(1 - direction, if random.chance(0.9) { 1.0 } else { -1.0 });
                let path = Path::through(&[[x, y], [x + forward, y]]);
                let mut user = self.newcomer(kind, direction, 0, random);
                if kind == Kind::Truck {
                    user.size = [random.range(5.2, 6.4), 2.0, random.range(1.8, 2.6)];
                }
                user = RoadUser {
                    parked: true,
                    path,
                    speed: 0.0,
                    at: 0.0,
                    gives_way: None,
                    hesitates: None,
                    ..user
                };
                self.users.push(user);
            }
        }
    }
}

/// Positions at the start of the step.
struct Everybody {
    poses: Vec<Body>,
}

#[derive(Clone, Copy)]
struct Body {
    at: [f32; 2],
    heading: Heading,
    speed: f32,
    half: [f32; 2],
    kind: Kind,
    parked: bool,
}

/// An obstacle ahead: free metres to it, and its speed in our direction.
type Ahead = (f32, f32);

impl Everybody {
    fn of(users: &[RoadUser]) -> Self {
        let body = |user: &RoadUser| {
            let pose = user.pose(0.0);
            Body {
                at: pose.at,
                heading: pose.heading,
                speed: pose.speed,
                half: [user.size[0] / 2.0, user.size[1] / 2.0],
                kind: user.kind,
                parked: user.parked,
            }
        };
        Everybody { poses: users.iter().map(body).collect() }
    }

    /// The nearest obstacle on the path of the road user with that index; only those going the same way, if it is `stuck`.
    fn ahead(&self, index: usize, stuck: bool) -> Option<Ahead> {
        let own = self.poses[index];
        let mut nearest: Option<Ahead> = None;
        for (other_index, other) in self.poses.iter().enumerate() {
            if other_index == index || other.parked {
                continue;
            }
            let offset = vec3(other.at[0] - own.at[0], other.at[1] - own.at[1], 0.0);
            let offset = own.heading.turn_back(offset);
            // Cosine and sine of the other's heading relative to ours.
            let cos = own.heading.cos * other.heading.cos + own.heading.sin * other.heading.sin;
            let sin = own.heading.cos * other.heading.sin - own.heading.sin * other.heading.cos;
            let long = cos.abs() * other.half[0] + sin.abs() * other.half[1];
            let wide = sin.abs() * other.half[0] + cos.abs() * other.half[1];
            let beside = if other.kind == Kind::Person { 0.9 } else { 0.25 };
            let in_the_way = offset.y.abs() < own.half[1] + wide + beside;
            // Oncoming road users on our side leave it before we meet.
            let oncoming = cos < -0.7 && other.kind != Kind::Person;
            let gap = offset.x - own.half[0] - long;
            let ignored = oncoming || (stuck && cos < 0.7);
            if offset.x <= 0.0 || gap > LOOK_M || !in_the_way || ignored {
                continue;
            }
            if nearest.is_none_or(|(least, _)| gap < least) {
                nearest = Some((gap, other.speed * cos));
            }
        }
        nearest
    }

    /// Whether a vehicle will be at `x` on the road within the time of a gap; `except` is the vehicle that asks because it turns back.
    fn comes_to(&self, x: f32, except: Option<usize>) -> bool {
        self.poses.iter().enumerate().any(|(index, other)| {
            let vehicle = other.kind != Kind::Person && !other.parked && Some(index) != except;
            let distance = (x - other.at[0]) * other.heading.cos.signum();
            let nose = distance - other.half[0];
            let comes =
                distance > -other.half[0] - 1.0 && nose < other.speed * GAP_S + 1.0 && other.speed > 0.3;
            // A vehicle that turns back also needs space in the queue on the other side.
            let turner = except.map(|index| self.poses[index]);
            let fills = turner.is_some_and(|turner| {
                let opposite = turner.heading.cos * other.heading.cos < 0.0;
                opposite && distance.abs() < other.half[0] + turner.half[0] + 5.0
            });
            vehicle && (comes || fills)
        })
    }
}

/// Acceleration on a free road.
fn free(own: f32, wish: f32) -> f32 {
    let square = (own / wish) * (own / wish);
    ACCELERATION * (1.0 - square * square)
}

/// Acceleration behind an obstacle that is `gap` ahead and moves at `speed`, by the Intelligent Driver Model.
fn follow(own: f32, wish: f32, (gap, speed): Ahead) -> f32 {
    let closing = own - speed;
    let wanted = STANDING_GAP_M
        + (own * TIME_GAP_S + own * closing / (2.0 * (ACCELERATION * BRAKING).sqrt())).max(0.0);
    let pressure = wanted / gap.max(0.1);
    free(own, wish) - ACCELERATION * pressure * pressure
}

/// The stop line as a standing obstacle, while the light is red.
fn red_ahead(street: &Street, now: f64, user: &RoadUser, all: &Everybody, index: usize) -> Option<Ahead> {
    let [red, cycle] = street.light?;
    if (now % f64::from(cycle.max(1.0))) as f32 > red {
        return None;
    }
    let body = all.poses[index];
    let distance = (street.crossing_x - body.at[0]) * body.heading.cos.signum();
    // The stop line is 3 m before the middle of the crossing.
    let gap = distance - 3.0 - body.half[0] + STANDING_GAP_M;
    let can_stop = user.speed * user.speed / (2.0 * BRAKING * 1.6) < gap;
    (gap > 0.0 && gap < LOOK_M && can_stop).then_some((gap, 0.0))
}

/// The speed of a vehicle after a step.
fn drive(user: &mut RoadUser, index: usize, all: &Everybody, red: Option<Ahead>, dt: f32) -> f32 {
    let mut wish = user.wish;
    let mut acceleration = f32::INFINITY;
    let (own, wished) = (user.speed, user.wish);
    let mut stop_in = |gap: f32| {
        acceleration = acceleration.min(follow(own, wished, ((gap + STANDING_GAP_M).max(0.1), 0.0)));
    };
    if let Some(place) = user.gives_way {
        let left = place - user.at;
        if left < 25.0 {
            wish = wish.min(TURNING_SPEED + left.max(0.0) * 0.3);
        }
        let body = all.poses[index];
        if left < 6.0
            && user.stands < STUCK_S
            && all.comes_to(body.at[0] + body.heading.cos * left, Some(index))
        {
            stop_in(left);
        } else if left <= 0.5 {
            user.gives_way = None;
            user.wish = TURNING_SPEED * 1.5;
        }
    }
    if let Some((place, seconds)) = user.hesitates {
        let left = place - user.at;
        if user.stands > seconds || left < -5.0 {
            user.hesitates = None;
        } else if left < 40.0 {
            stop_in(left);
        }
    }
    let stuck = user.stands > STUCK_S;
    if let Some(ahead) = all.ahead(index, stuck) {
        acceleration = acceleration.min(follow(user.speed, wish, ahead));
    }
    if let Some(ahead) = red {
        acceleration = acceleration.min(follow(user.speed, wish, ahead));
    }
    (user.speed + acceleration.min(free(user.speed, wish)).max(-BRAKING_MAX) * dt).max(0.0)
}

/// The speed of a pedestrian after a step.
fn walk(user: &mut RoadUser, all: &Everybody) -> f32 {
    if let Some(place) = user.gives_way
        && user.at >= place
    {
        let ([x, _], _) = user.path.at(user.at);
        if user.stands < STUCK_S && all.comes_to(x, None) {
            return 0.0;
        }
        user.gives_way = None;
    }
    user.wish
}
