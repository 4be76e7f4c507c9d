//! Who is on the street, where, and how fast: road users that keep their distance, stop, queue, turn back and cross.
//!
//! Duty: the state of the traffic at any time from a seed, in metres and seconds on the ground. It knows neither pictures nor
//! cameras: [`super::view`] says where a road user is seen, [`super::scene`] draws it.
//!
//! Drivers follow the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000) behind whatever is ahead of
//! them in their way: another vehicle, somebody who crosses, a red light. Time goes in steps of [`STEP_S`]; between two steps
//! everybody goes on as before.

mod flow;
mod path;

use crate::sim::random::Random;
use crate::sim::space::Heading;
pub use path::Path;

/// One step of the traffic, seconds: short against the second in which a driver reacts.
pub const STEP_S: f64 = 0.1;

/// Road users that may be on the street at once; more do not enter. A jam over 280 m of four lanes is 160.
pub const ROAD_USERS_MAX: usize = 192;

/// What goes on the street.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// On foot.
    Person,
    /// With its rider, who is a person of its own in a picture.
    Bicycle,
    /// Cars and vans.
    Car,
    /// With its rider, as a bicycle.
    Motorcycle,
    /// Buses and coaches.
    Bus,
    /// From a pickup to an articulated lorry.
    Truck,
}

impl Kind {
    /// All, in the order of COCO's numbers (1, 2, 3, 4, 6, 8), which is that of the shipped detector's classes.
    pub const ALL: [Kind; 6] =
        [Kind::Person, Kind::Bicycle, Kind::Car, Kind::Motorcycle, Kind::Bus, Kind::Truck];

    /// COCO's name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Bicycle => "bicycle",
            Kind::Car => "car",
            Kind::Motorcycle => "motorcycle",
            Kind::Bus => "bus",
            Kind::Truck => "truck",
        }
    }

    /// Place in [`Kind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The ground: lanes along x, the centre line at y = 0, traffic on the right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Street {
    /// Lanes towards +x (at negative y) and towards -x; one of them may be 0.
    pub lanes: [u8; 2],
    /// Width of a lane, metres.
    pub lane_m: f32,
    /// Width of a cycle lane outside of the lanes; 0: bicycles ride at the edge of the outer lane.
    pub cycle_m: f32,
    /// Width of the parking places outside of that; 0: nobody parks.
    pub parking_m: f32,
    /// Width of the pavements.
    pub pavement_m: f32,
    /// Vehicles come and go so far from x = 0.
    pub reach_m: f32,
    /// People come and go so far from x = 0.
    pub walk_reach_m: f32,
    /// Where the stop lines and the crossing for people are.
    pub crossing_x: f32,
    /// A light at the crossing: seconds of red in each direction and of the whole cycle.
    pub light: Option<[f32; 2]>,
}

impl Default for Street {
    fn default() -> Self {
        Street {
            lanes: [1, 1],
            lane_m: 3.4,
            cycle_m: 1.6,
            parking_m: 2.2,
            pavement_m: 3.0,
            reach_m: 130.0,
            walk_reach_m: 80.0,
            crossing_x: 12.0,
            light: None,
        }
    }
}

impl Street {
    /// From the centre line to the outer edge of the lanes of a direction (0: towards +x).
    pub fn lanes_m(&self, direction: usize) -> f32 {
        f32::from(self.lanes[direction]) * self.lane_m
    }

    /// From the centre line to the kerb on that side.
    pub fn kerb_m(&self, direction: usize) -> f32 {
        self.lanes_m(direction) + self.cycle_m + self.parking_m
    }

    /// `y` of a distance from the centre line on the side of a direction.
    pub fn side(direction: usize, distance: f32) -> f32 {
        if direction == 0 { -distance } else { distance }
    }

    fn lane_y(&self, direction: usize, lane: usize) -> f32 {
        Street::side(direction, (lane as f32 + 0.5) * self.lane_m)
    }
}

/// How much of what comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Arrivals an hour by kind, in the order of [`Kind::ALL`].
    pub per_hour: [f32; 6],
    /// Of the vehicles: stop for a while for no visible reason, and go on.
    pub hesitate: f32,
    /// Of those who can: turn back half-way.
    pub turn_back: f32,
    /// Of the people on foot: cross the road.
    pub cross: f32,
    /// Of the parking places: taken.
    pub parked: f32,
    /// Of the wished speed that is driven, 1 in dry weather.
    pub pace: f32,
}

impl Default for Demand {
    fn default() -> Self {
        Demand {
            per_hour: [120.0, 60.0, 420.0, 30.0, 30.0, 60.0],
            hesitate: 0.05,
            turn_back: 0.04,
            cross: 0.3,
            parked: 0.5,
            pace: 1.0,
        }
    }
}

/// Where somebody is and how they move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// On the ground, metres.
    pub at: [f32; 2],
    /// Which way the front shows.
    pub heading: Heading,
    /// Metres a second.
    pub speed: f32,
    /// Distance travelled since it came, metres: moves legs and pedals.
    pub travelled: f32,
}

/// Somebody on the street.
#[derive(Debug, Clone, PartialEq)]
pub struct RoadUser {
    /// From 1, never used again.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// A seed for what it looks like.
    pub looks: u64,
    /// Length, width, height in metres; of bicycles and motorcycles without the rider.
    pub size: [f32; 3],
    /// Stands at the kerb and never moves.
    pub parked: bool,
    path: Path,
    /// Distance along the path, metres.
    at: f32,
    speed: f32,
    braking: bool,
    wish: f32,
    /// Place on the path before which it waits for a gap in the traffic.
    gives_way: Option<f32>,
    /// Hesitates at that place on the path, for so many seconds.
    hesitates: Option<(f32, f32)>,
    /// Seconds without moving.
    stands: f32,
}

impl RoadUser {
    /// Whether it goes slower than it did.
    pub fn slows_down(&self) -> bool {
        self.braking
    }

    /// Where it is, `ahead` seconds after the last step.
    pub fn pose(&self, ahead: f32) -> Pose {
        let travelled = self.at + self.speed * ahead;
        let (at, heading) = self.path.at(travelled);
        Pose { at, heading, speed: self.speed, travelled }
    }
}

/// The traffic of a street.
#[derive(Debug, Clone)]
pub struct Traffic {
    street: Street,
    demand: Demand,
    random: Random,
    /// Seconds since the start, at the last step.
    now: f64,
    users: Vec<RoadUser>,
    /// When the next of each kind wants to come.
    next: [f64; 6],
    born: u32,
}

impl Traffic {
    /// An empty street, but for parked cars.
    pub fn new(street: Street, demand: Demand, seed: u64) -> Self {
        let mut random = Random::stream(seed, 1);
        let mut traffic = Traffic {
            street,
            demand,
            random: random.clone(),
            now: 0.0,
            users: Vec::new(),
            next: [0.0; 6],
            born: 0,
        };
        traffic.park(&mut random);
        traffic.random = Random::stream(seed, 2);
        traffic.demand(demand);
        traffic
    }

    /// The street.
    pub fn street(&self) -> &Street {
        &self.street
    }

    /// Everybody on it, oldest first.
    pub fn users(&self) -> &[RoadUser] {
        &self.users
    }

    /// Seconds since the start, at the last step.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Who is to come.
    pub fn wanted(&self) -> &Demand {
        &self.demand
    }

    /// From now on so many come. Parked cars stay.
    pub fn demand(&mut self, demand: Demand) {
        self.demand = demand;
        for kind in Kind::ALL {
            self.next[kind.index()] = self.now + self.until_next(kind);
        }
    }

    /// When the street is next in motion, if nobody moves now.
    pub fn quiet_until(&self) -> Option<f64> {
        let still = self.users.iter().all(|user| user.parked);
        still.then(|| self.next.iter().copied().fold(f64::INFINITY, f64::min))
    }

    /// Nobody moves until then: time passes at once. Only after [`Traffic::quiet_until`], and not beyond it.
    pub fn skip_to(&mut self, time: f64) {
        debug_assert!(self.quiet_until().is_some_and(|until| time <= until));
        let steps = ((time - self.now) / STEP_S).floor().max(0.0);
        self.now += steps * STEP_S;
    }

    /// Goes on until a step more would be beyond `time`.
    pub fn advance(&mut self, time: f64) {
        while self.now + STEP_S <= time {
            self.step();
        }
    }

    fn until_next(&mut self, kind: Kind) -> f64 {
        let per_hour = self.demand.per_hour[kind.index()];
        if per_hour > 0.0 { f64::from(self.random.exponential(3600.0 / per_hour)) } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests;
