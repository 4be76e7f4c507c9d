//! The motion gate: decides from a small luma picture whether a frame needs inference, and where something moved.
//!
//! ```text
//!                    warmup_frames seen                     a region moves
//!        Warmup (open) ──────────────► Still (closed) ────────────────────────► Motion (open)
//!           ▲                           ▲   │  ▲  │                                │      ▲
//!           │ plane of another size     │   │  │  │ refresh_s without an           │      │ moves again
//!           └──── from every state      │   │  │  ▼ open frame          it stopped ▼      │
//!                                       │   │  └─ Refresh (one open frame)    Hold (open) ─┘
//!                  light of the whole   │   ▼                                      │
//!                  scene changed:  LightSwitch (closed)      hold_ms over ─► Still ◄┘
//! ```
//!
//! The luma plane is averaged onto a grid of at most 160x160 cells; each cell is compared with its background, with a threshold that
//! follows the camera's noise; a light change of the whole scene is distinguished from motion and followed; isolated cells and small
//! regions are ignored. When in doubt the gate opens: a wasted inference costs a moment, a missed car is lost.
//!
//! It reads no clock (it gets `now`), allocates nothing after [`Gate::new`], and panics on no plane, whatever its size or content. It
//! cannot distinguish waving trees from road users: exclude those by polygon. An uneven light change (a lamp at the side, the shadow of a
//! cloud's edge) counts as motion until it has stood still for two seconds over more than half of the picture, or for `absorb_s` where it
//! is smaller.

use std::fmt;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Frame, PointRel, Polygon, polygon_contains};
use crate::base::limits::{FRAME_SIDE_MAX, FRAME_SIDE_MIN, GATE_REGIONS_MAX, MASK_POLYGONS_MAX};
use crate::capture::frame::Plane;
use crate::platform::clock::Mono;

mod background;
mod downscale;
mod light;
mod regions;
#[cfg(test)]
mod tests;

use background::{Background, Change, Tuning};
use downscale::{Grid, downscale};
use regions::{CELLS_MAX, CellBox};

/// Polygons of a mask.
pub type Polygons = heapless::Vec<Polygon, MASK_POLYGONS_MAX>;

/// Sensitivity of the gate, its area, and how long it stays open.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Minimum difference from the background that counts, luma code values of a cell. 1.0..=100.0. Default 8: the car-park recording of
    /// the tests (H.264) shows its shaking and flicker from 3 downwards; an object 25 brighter than the road that covers a third of a cell
    /// changes it by 8.
    pub luma_delta_min: f32,
    /// A difference also has to be this many standard deviations of the cell's noise. 2.0..=20.0. Default 4: one cell in 16000 by chance,
    /// and a region needs several next to each other.
    pub noise_factor: f32,
    /// Minimum number of cells in a moving region. 1..=1000. Default 4 (16x16 pixels of a 1280x720 frame).
    pub area_min_px: u32,
    /// Seconds after which a stopped object becomes background. 5..=3600. Default 60, most red lights.
    pub absorb_s: u32,
    /// Milliseconds that the gate stays open after motion. 0..=60000. Default 1000: gaps in a track are shorter at the usual rates.
    pub hold_ms: u32,
    /// Seconds without an open frame after which one is let through. 0..=86400, 0 = never. Default 30.
    pub refresh_s: u32,
    /// First frames, all let through while the background is learnt. 2..=1000. Default 6.
    pub warmup_frames: u32,
    /// Areas to watch; empty = everywhere. A cell belongs to a polygon if its centre does.
    pub include: Polygons,
    /// Areas to ignore, even inside `include`.
    pub exclude: Polygons,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            luma_delta_min: 8.0,
            noise_factor: 4.0,
            area_min_px: 4,
            absorb_s: 60,
            hold_ms: 1000,
            refresh_s: 30,
            warmup_frames: 6,
            include: Polygons::new(),
            exclude: Polygons::new(),
        }
    }
}

impl Params {
    /// Checks that every value is in its range and every polygon is valid.
    ///
    /// # Errors
    /// [`Kind::Config`], naming all wrong values with their ranges.
    pub fn check(&self) -> Result<()> {
        let mut wrong: Vec<String> = Vec::new();
        let mut range = |name: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                wrong.push(format!("{name} = {value} is outside {low}..={high}"));
            }
        };
        range("luma_delta_min", f64::from(self.luma_delta_min), 1.0, 100.0);
        range("noise_factor", f64::from(self.noise_factor), 2.0, 20.0);
        range("area_min_px", f64::from(self.area_min_px), 1.0, 1000.0);
        range("absorb_s", f64::from(self.absorb_s), 5.0, 3600.0);
        range("hold_ms", f64::from(self.hold_ms), 0.0, 60_000.0);
        range("refresh_s", f64::from(self.refresh_s), 0.0, 86_400.0);
        range("warmup_frames", f64::from(self.warmup_frames), 2.0, 1000.0);
        for (name, polygons) in [("include", &self.include), ("exclude", &self.exclude)] {
            for (index, polygon) in polygons.iter().enumerate() {
                if polygon.len() < 3 {
                    wrong
                        .push(format!("{name}[{index}] has {} corners, 3 or more are needed", polygon.len()));
                }
                if polygon.iter().any(|p| !(0.0..=1.0).contains(&p.x) || !(0.0..=1.0).contains(&p.y)) {
                    wrong
                        .push(format!("{name}[{index}] has a corner outside 0.0..=1.0 (parts of the frame)"));
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(config(format!("motion gate: {}", wrong.join("; ")))) }
    }
}

impl Params {
    fn tuning(&self) -> Tuning {
        Tuning {
            luma_delta_min: self.luma_delta_min,
            noise_factor: self.noise_factor,
            absorb: Duration::from_secs(u64::from(self.absorb_s)),
        }
    }
}

/// The reason for the verdict on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The background is being learnt: open.
    Warmup,
    /// Something moves: open, with its regions.
    Motion,
    /// Something moved less than `hold_ms` ago: open.
    Hold,
    /// Something other than the picture reported motion ([`Gate::wake`]): open.
    Woken,
    /// Nothing has been let through for `refresh_s`: open.
    Refresh,
    /// The light of the whole scene changed and nothing else: closed.
    LightSwitch,
    /// Nothing moves: closed.
    Still,
}

impl Reason {
    /// Whether frames for this reason are let through.
    pub const fn open(self) -> bool {
        match self {
            Reason::Warmup | Reason::Motion | Reason::Hold | Reason::Woken | Reason::Refresh => true,
            Reason::LightSwitch | Reason::Still => false,
        }
    }
}

/// The gate's verdict on a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the frame needs inference: `reason.open()`.
    pub open: bool,
    /// The reason.
    pub reason: Reason,
    /// Number of moving cells in the regions.
    pub moving_pixels: u32,
    /// The moving regions, frame pixels; every moving cell is in one. Empty during warm-up.
    pub regions: heapless::Vec<BoxPx<Frame>, GATE_REGIONS_MAX>,
}

/// The gate of one camera. See the module's documentation.
pub struct Gate {
    params: Params,
    frame: (u32, u32),
    /// Size of the planes of the current background.
    plane: (usize, usize),
    grid: Grid,
    /// Frame pixels per cell.
    cell_px: (f32, f32),
    background: Background,
    cells: Box<[u16]>,
    mask: Box<[bool]>,
    different: Box<[bool]>,
    moving: Box<[bool]>,
    stack: Box<[u16]>,
    frames_seen: u32,
    last_frame: Mono,
    last_open: Mono,
    last_motion: Option<Mono>,
    woken_until: Mono,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gate { frame, grid, frames_seen, .. } = self;
        write!(f, "Gate {{ frame: {frame:?}, grid: {grid:?}, frames_seen: {frames_seen} }}")
    }
}

impl Gate {
    /// A gate for frames of `frame_width` x `frame_height` pixels. Allocates all its memory ([`Gate::bytes`]).
    ///
    /// # Errors
    /// [`Kind::Config`]: as [`Params::check`]; a frame's side out of range; masks that leave no cell.
    pub fn new(params: Params, frame_width: u32, frame_height: u32) -> Result<Self> {
        params.check()?;
        let tuning = params.tuning();
        let mut gate = Gate {
            params,
            frame: (frame_width, frame_height),
            plane: (0, 0),
            grid: Grid { width: 1, height: 1 },
            cell_px: (1.0, 1.0),
            background: Background::new(tuning),
            cells: vec![0; CELLS_MAX].into(),
            mask: vec![false; CELLS_MAX].into(),
            different: vec![false; CELLS_MAX].into(),
            moving: vec![false; CELLS_MAX].into(),
            stack: vec![0; CELLS_MAX].into(),
            frames_seen: 0,
            last_frame: Mono::ZERO,
            last_open: Mono::ZERO,
            last_motion: None,
            woken_until: Mono::ZERO,
        };
        gate.set_frame(frame_width, frame_height)?;
        Ok(gate)
    }

    /// Heap memory of a gate, bytes, whatever the frame size.
    pub const fn bytes() -> usize {
        Background::bytes() + CELLS_MAX * (2 * size_of::<u16>() + 3 * size_of::<bool>())
    }

    /// The frame size changed (a folder of pictures of different sizes). Learns a new background. No heap call unless it fails.
    ///
    /// # Errors
    /// [`Kind::Config`]: a side out of range (nothing changed), or masks that leave no cell (a caller that continues watches the whole
    /// frame).
    pub fn set_frame(&mut self, width: u32, height: u32) -> Result<()> {
        let sides = FRAME_SIDE_MIN..=FRAME_SIDE_MAX;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(config(format!(
                "motion gate: a frame of {width}x{height} is outside {FRAME_SIDE_MIN}..={FRAME_SIDE_MAX} a side"
            )));
        }
        self.frame = (width, height);
        if !self.set_plane(width as usize, height as usize) {
            self.mask.fill(true);
            return Err(no_cell());
        }
        Ok(())
    }

    /// Other settings from the next frame on; the background that was learnt stays.
    ///
    /// # Errors
    /// [`Kind::Config`]: as [`Params::check`], or masks that leave no cell; then nothing changed.
    pub fn set(&mut self, params: Params) -> Result<()> {
        params.check()?;
        let before = std::mem::replace(&mut self.params, params);
        if !self.set_mask() {
            self.params = before;
            self.set_mask();
            return Err(no_cell());
        }
        self.background.set_tuning(self.params.tuning());
        Ok(())
    }

    /// A motion sensor triggered at `at`: frames taken from then on are let through for `hold_ms`.
    pub fn wake(&mut self, at: Mono) {
        self.woken_until = self.woken_until.max(at + Duration::from_millis(u64::from(self.params.hold_ms)));
    }

    /// Mean brightness of the last plane, code values.
    pub fn brightness(&self) -> u8 {
        let cells = &self.cells[..self.grid.cells()];
        let sum: u64 = cells.iter().map(|cell| u64::from(*cell)).sum();
        ((sum / cells.len() as u64) >> downscale::CELL_BITS) as u8
    }

    /// Processes a frame: its luma plane in full, or reduced to an eighth (the DC coefficients of a JPEG, which may reach a little beyond
    /// the frame's edge). A plane whose size differs from the previous one starts a new background, and covers a whole frame of the current
    /// size. `now` is when the frame was taken.
    pub fn look(&mut self, now: Mono, luma: &Plane<'_>) -> Verdict {
        let plane = (luma.width(), luma.height());
        if plane != self.plane && !self.set_plane(plane.0, plane.1) {
            // The mask falls between the few cells of this plane: better to watch too much than nothing.
            self.mask.fill(true);
        }
        downscale(luma, self.grid, &mut self.cells);
        let cells = self.grid.cells();
        let dt = now.since(self.last_frame);
        self.last_frame = now;
        let change = self.background.look(&self.cells[..cells], self.grid.width, dt, &mut self.different);
        for (different, mask) in self.different[..cells].iter_mut().zip(&self.mask) {
            *different &= *mask;
        }
        regions::drop_lonely(&self.different, self.grid, &mut self.moving);
        let area_min = self.params.area_min_px;
        let (mut moving_pixels, mut boxes) =
            regions::find(&mut self.moving, self.grid, area_min, &mut self.stack);
        let warm = self.frames_seen >= self.params.warmup_frames;
        if !warm {
            (moving_pixels, boxes) = (0, regions::CellBoxes::new());
        }
        let reason = self.decide(now, change, warm, moving_pixels > 0);
        let regions = boxes.iter().map(|cells| self.to_frame(*cells)).collect();
        Verdict { open: reason.open(), reason, moving_pixels, regions }
    }

    /// The reason, and the updates of the state.
    fn decide(&mut self, now: Mono, change: Change, warm: bool, moves: bool) -> Reason {
        let within = |since: Mono, limit_ms: u64| now.since(since) < Duration::from_millis(limit_ms);
        let held = self.last_motion.is_some_and(|at| within(at, u64::from(self.params.hold_ms)));
        let refresh =
            self.params.refresh_s > 0 && !within(self.last_open, u64::from(self.params.refresh_s) * 1000);
        if change == Change::Relearnt {
            self.last_motion = None;
        }
        let reason = match (warm, moves, change) {
            (false, _, _) => Reason::Warmup,
            (true, true, _) => Reason::Motion,
            (true, false, Change::None | Change::Light) if held => Reason::Hold,
            (true, false, _) if now < self.woken_until => Reason::Woken,
            (true, false, _) if refresh => Reason::Refresh,
            (true, false, Change::Light | Change::Relearnt) => Reason::LightSwitch,
            (true, false, Change::None) => Reason::Still,
        };
        self.frames_seen = self.frames_seen.saturating_add(1);
        if reason == Reason::Motion {
            self.last_motion = Some(now);
        }
        if reason.open() {
            self.last_open = now;
        }
        reason
    }

    /// Prepares for planes of this size: grid, mask, scale; resets the background. Returns whether the mask leaves a cell.
    fn set_plane(&mut self, width: usize, height: usize) -> bool {
        self.plane = (width, height);
        self.grid = Grid::for_plane(width, height);
        // Frame pixels that the plane spans.
        let spans = |samples: usize, side: u32| {
            let eighth = samples == (side as usize).div_ceil(8);
            if eighth { samples as f32 * 8.0 } else { side as f32 }
        };
        self.cell_px = (
            spans(width, self.frame.0) / self.grid.width as f32,
            spans(height, self.frame.1) / self.grid.height as f32,
        );
        self.background.forget();
        (self.frames_seen, self.last_motion) = (0, None);
        self.set_mask()
    }

    /// Applies the polygons to the current grid. Returns whether they leave a cell.
    fn set_mask(&mut self) -> bool {
        let inside =
            |polygons: &Polygons, point| polygons.iter().any(|polygon| polygon_contains(polygon, point));
        // The centre of the visible part of a cell, in fractions of the frame: planes may reach beyond the frame.
        let middle = |cell: usize, px: f32, side: u32| {
            let side = side as f32;
            ((cell as f32 * px).min(side) + ((cell + 1) as f32 * px).min(side)) / 2.0 / side
        };
        let mut any = false;
        for y in 0..self.grid.height {
            for x in 0..self.grid.width {
                let centre = PointRel {
                    x: middle(x, self.cell_px.0, self.frame.0),
                    y: middle(y, self.cell_px.1, self.frame.1),
                };
                let included = self.params.include.is_empty() || inside(&self.params.include, centre);
                let looked_at = included && !inside(&self.params.exclude, centre);
                self.mask[y * self.grid.width + x] = looked_at;
                any |= looked_at;
            }
        }
        any
    }

    /// Converts a box of cells to frame pixels.
    fn to_frame(&self, cells: CellBox) -> BoxPx<Frame> {
        let ((w, h), (fw, fh)) = (self.cell_px, self.frame);
        BoxPx::new(
            cells.x1 as f32 * w,
            cells.y1 as f32 * h,
            (cells.x2 + 1) as f32 * w,
            (cells.y2 + 1) as f32 * h,
        )
        .clipped(fw as f32, fh as f32)
    }
}

fn no_cell() -> Error {
    config(
        "motion gate: the include and exclude polygons leave no cell of the picture to look at; enlarge `include` or shrink \
         `exclude`",
    )
}

fn config(text: impl Into<String>) -> Error {
    Error::fatal(Kind::Config, text)
}
