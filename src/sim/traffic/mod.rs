//! The road users on the street, their positions and speeds: they keep their distance, stop, queue, turn back and cross.
//!
//! Duty: the state of the traffic at any time from a seed, in metres and seconds on the ground. It knows neither pictures nor cameras:
//! [`super::view`] projects road users into the picture, [`super::scene`] renders it.
//!
//! Drivers follow the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000) behind the obstacle ahead: another
//! vehicle, a crossing pedestrian, a red light. Time advances in steps of [`STEP_S`]; between two steps every road user keeps its speed.

mod flow;
mod path;

use crate::sim::random::Random;
use crate::sim::space::Heading;
pub use path::Path;

/// One step of the traffic, seconds: short compared with a driver's reaction time of one second.
pub const STEP_S: f64 = 0.1;

/// Maximum number of road users on the street; more do not enter. A jam over 280 m of four lanes is 160.
pub const ROAD_USERS_MAX: usize = 192;

/// Classes of road users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pedestrian.
    Person,
    /// With its rider, who is a separate person in a picture.
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

    /// Index in [`Kind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The ground: lanes along x, the centre line at y = 0, traffic on the right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Street {
    /// Number of lanes towards +x (at negative y) and towards -x; one of them may be 0.
    pub lanes: [u8; 2],
    /// Width of a lane, metres.
    pub lane_m: f32,
    /// Width of a cycle lane outside the lanes; 0: bicycles ride at the edge of the outer lane.
    pub cycle_m: f32,
    /// Width of the parking spaces outside of that; 0: no parking.
    pub parking_m: f32,
    /// Width of the pavements.
    pub pavement_m: f32,
    /// Distance from x = 0 at which vehicles appear and disappear.
    pub reach_m: f32,
    /// Distance from x = 0 at which pedestrians appear and disappear.
    pub walk_reach_m: f32,
    /// Position of the stop lines and the pedestrian crossing.
    pub crossing_x: f32,
    /// A traffic light at the crossing: seconds of red in each direction and of the whole cycle.
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

    /// `y` at a distance from the centre line, on the side of a direction.
    pub fn side(direction: usize, distance: f32) -> f32 {
        if direction == 0 { -distance } else { distance }
    }

    fn lane_y(&self, direction: usize, lane: usize) -> f32 {
        Street::side(direction, (lane as f32 + 0.5) * self.lane_m)
    }
}

/// Demand and behaviour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Arrivals per hour by class, in the order of [`Kind::ALL`].
    pub per_hour: [f32; 6],
    /// Share of vehicles that stop for a while without a visible reason.
    pub hesitate: f32,
    /// Share of road users able to turn back that do so half-way.
    pub turn_back: f32,
    /// Share of pedestrians that cross the road.
    pub cross: f32,
    /// Share of occupied parking places.
    pub parked: f32,
    /// Speed as a fraction of the desired speed, 1 in dry weather.
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

/// Position and motion of a road user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Position on the ground, metres.
    pub at: [f32; 2],
    /// Heading of the front.
    pub heading: Heading,
    /// Speed, metres per second.
    pub speed: f32,
    /// Distance travelled since it appeared, metres: moves legs and pedals.
    pub travelled: f32,
}

/// A road user on the street.
#[derive(Debug, Clone, PartialEq)]
pub struct RoadUser {
    /// Its id, from 1, never reused.
    pub id: u32,
    /// Its class.
    pub kind: Kind,
    /// Seed of its appearance.
    pub looks: u64,
    /// Length, width, height in metres; of bicycles and motorcycles without the rider.
    pub size: [f32; 3],
    /// It is parked and never moves.
    pub parked: bool,
    path: Path,
    /// Distance along the path, metres.
    at: f32,
    speed: f32,
    braking: bool,
    wish: f32,
    /// Position on the path before which it waits for a gap in the traffic.
    gives_way: Option<f32>,
    /// Pauses at that position on the path, for this many seconds.
    hesitates: Option<(f32, f32)>,
    /// Seconds at standstill.
    stands: f32,
}

impl RoadUser {
    /// Whether it is braking.
    pub fn slows_down(&self) -> bool {
        self.braking
    }

    /// Its pose `ahead` seconds after the last step.
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
    /// Next arrival of each class.
    next: [f64; 6],
    born: u32,
}

impl Traffic {
    /// An empty street, except for parked cars.
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

    /// All road users on it, oldest first.
    pub fn users(&self) -> &[RoadUser] {
        &self.users
    }

    /// Seconds since the start, at the last step.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// The demand.
    pub fn wanted(&self) -> &Demand {
        &self.demand
    }

    /// Sets the demand from now on. Parked cars stay.
    pub fn demand(&mut self, demand: Demand) {
        self.demand = demand;
        for kind in Kind::ALL {
            self.next[kind.index()] = self.now + self.until_next(kind);
        }
    }

    /// When something next moves on the street, if nothing moves now.
    pub fn quiet_until(&self) -> Option<f64> {
        let still = self.users.iter().all(|user| user.parked);
        still.then(|| self.next.iter().copied().fold(f64::INFINITY, f64::min))
    }

    /// Advances to a time before which nothing moves, in one step. Only after [`Traffic::quiet_until`], and not beyond it.
    pub fn skip_to(&mut self, time: f64) {
        debug_assert!(self.quiet_until().is_some_and(|until| time <= until));
        let steps = ((time - self.now) / STEP_S).floor().max(0.0);
        self.now += steps * STEP_S;
    }

    /// Advances until a further step would be beyond `time`.
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
