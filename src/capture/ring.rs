//! The frame ring: a fixed set of preallocated slots between the capture thread and the pipeline.
//!
//! ```text
//!            begin            commit             take             release
//!   free ───────────► filling ───────► ready ───────────► reading ───────► free
//!    ▲                   │ abandon       │ replaced by a newer frame: counted
//!    └───────────────────┴───────────────┘
//! ```
//! A slot is filled in place and becomes visible only after success. In [`Policy::NewestWins`] a slow reader costs old frames, counted, and
//! never growing latency (I2); in [`Policy::Lossless`] (recordings) the writer waits instead. Slots move by handle, bytes stay in place.
//! The ring's memory is fixed by [`ring`]; JPEGs have no fixed size, so a frame that is larger than its slot gets a larger one, and the
//! ring fewer of them ([`Writer::fill_sized`]). A V4L2 camera lends its own buffers: then a slot holds a [`Lease`], which is returned as
//! soon as the slot is free, and no byte is copied.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heapless::{Deque, Vec};

use crate::base::limits::{RING_SLOTS_MAX, RING_SLOTS_MIN, RING_SLOTS_WISHED_MIN};
use crate::capture::frame::{Color, FrameFormat, FrameMeta, Lease, PixelFormat};

/// What happens when the reader is slower than the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The reader gets the newest frame; older ones are dropped and counted. For cameras.
    NewestWins,
    /// The writer waits; the reader gets every frame in order. For recordings.
    Lossless,
}

/// One preallocated frame.
#[derive(Debug)]
pub struct Slot {
    /// The format of `bytes`.
    pub format: FrameFormat,
    /// Its metadata; `bytes_used` bytes are valid.
    pub meta: FrameMeta,
    /// The buffer, of the same size in every slot; empty if the source lends its own.
    pub bytes: Box<[u8]>,
    /// The source's own buffer, instead of `bytes`; returned to it with the slot.
    pub lent: Option<Lease>,
}

impl Slot {
    /// The valid bytes.
    pub fn valid(&self) -> &[u8] {
        let bytes = self.lent.as_ref().map_or(&self.bytes[..], Lease::bytes);
        &bytes[..self.meta.bytes_used.min(bytes.len())]
    }
}

/// How many slots a ring gets: the rule of the original program (S14), `30 x min(2, GB / 8) x max(0.5, 6 / fps)` clamped to 10..=200, then
/// as many of them as fit into `budget_bytes`.
///
/// `ram_bytes`: memory of the machine; `fps`: target rate, above 0. `None` if not even [`RING_SLOTS_MIN`] slots fit into the budget.
pub fn slots_for(ram_bytes: u64, fps: f32, slot_bytes: usize, budget_bytes: usize) -> Option<usize> {
    let by_memory = (ram_bytes as f64 / f64::from(1u32 << 30) / 8.0).min(2.0);
    let by_rate = (6.0 / f64::from(fps)).max(0.5);
    let wished = (30.0 * by_memory * by_rate) as usize;
    let wished = wished.clamp(RING_SLOTS_WISHED_MIN, RING_SLOTS_MAX);
    let affordable = budget_bytes / slot_bytes.max(1);
    (affordable >= RING_SLOTS_MIN).then(|| wished.min(affordable))
}

/// The pure part: tracks the state of each slot. The thread-safe ends below only lock, call and notify.
struct Core {
    policy: Policy,
    free: Vec<Slot, RING_SLOTS_MAX>,
    ready: Deque<Slot, RING_SLOTS_MAX>,
    dropped: u64,
    closed: bool,
    /// Total number of slots, in any state.
    slots: usize,
    /// Total bytes of all buffers, and their upper limit.
    bytes: usize,
    bytes_max: usize,
}

impl Core {
    fn new(policy: Policy, slots: usize, slot_bytes: usize) -> Self {
        let format = FrameFormat {
            pixel: PixelFormat::Grey,
            width: 0,
            height: 0,
            row_bytes: 0,
            color: Color::default(),
        };
        let mut free = Vec::new();
        let slots = slots.clamp(RING_SLOTS_MIN, RING_SLOTS_MAX);
        let bytes = slots * slot_bytes;
        for _ in 0..slots {
            let bytes = vec![0; slot_bytes].into_boxed_slice();
            let pushed = free.push(Slot { format, meta: FrameMeta::default(), bytes, lent: None });
            assert!(pushed.is_ok(), "at most RING_SLOTS_MAX slots");
        }
        let ready = Deque::new();
        Core { policy, free, ready, dropped: 0, closed: false, slots, bytes, bytes_max: bytes }
    }

    /// Makes room for a buffer of `bytes` instead of the one of `have`: gives up other slots if needed, down to the minimum. Returns the
    /// size of the buffer, an eighth more than needed where possible: the next frame may be a little larger.
    ///
    /// # Errors
    /// The ring's memory is not enough; contains the largest size of a frame that fits now.
    fn grow(&mut self, have: usize, bytes: usize) -> Result<usize, usize> {
        let spare = |core: &Core| core.bytes_max.saturating_sub(core.bytes);
        while have + spare(self) < bytes && self.slots > RING_SLOTS_MIN {
            let old = self.free.pop().or_else(|| match self.policy {
                Policy::NewestWins => self.ready.pop_front().inspect(|_| self.dropped += 1),
                Policy::Lossless => None,
            });
            let Some(old) = old else { break };
            self.slots -= 1;
            self.bytes -= old.bytes.len();
        }
        let most = have + spare(self);
        if most < bytes {
            return Err(most);
        }
        let larger = (bytes + bytes / 8).min(most);
        self.bytes += larger - have;
        Ok(larger)
    }

    /// A slot to fill: a free one, or (newest wins) the oldest unread one.
    fn begin(&mut self) -> Option<Slot> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        match self.policy {
            Policy::NewestWins => self.ready.pop_front().map(|mut slot| {
                self.dropped += 1;
                slot.lent = None;
                slot
            }),
            Policy::Lossless => None,
        }
    }

    fn commit(&mut self, slot: Slot) {
        let pushed = self.ready.push_back(slot);
        assert!(pushed.is_ok(), "the queues have room for every slot");
    }

    fn release(&mut self, mut slot: Slot) {
        slot.lent = None;
        let pushed = self.free.push(slot);
        assert!(pushed.is_ok(), "the queues have room for every slot");
    }

    fn take(&mut self) -> Option<Slot> {
        match self.policy {
            Policy::Lossless => self.ready.pop_front(),
            Policy::NewestWins => {
                let newest = self.ready.pop_back()?;
                while let Some(old) = self.ready.pop_front() {
                    self.dropped += 1;
                    self.release(old);
                }
                Some(newest)
            }
        }
    }
}

struct Shared {
    core: Mutex<Core>,
    changed: Condvar,
    /// Rung for the reader, if it waits for several rings.
    bell: Option<Arc<Bell>>,
}

/// Wakes a thread that waits for several rings at once.
#[derive(Debug, Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Wakes whoever waits.
    pub fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_all();
    }

    /// How often it was rung: to be read before the rings are looked at.
    pub fn count(&self) -> u64 {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at most `patience` for a ring since it had been rung `seen` times.
    pub fn wait(&self, seen: u64, patience: Duration) {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rung.wait_timeout_while(rings, patience, |rings| *rings == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the core in an inconsistent state: every change above moves a whole slot.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.call_reader();
    }

    fn call_reader(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// A ring of `slots` (within `RING_SLOTS_MIN..=RING_SLOTS_MAX`) buffers of `slot_bytes` each: its two ends.
pub fn ring(policy: Policy, slots: usize, slot_bytes: usize) -> (Writer, Reader) {
    with(policy, slots, slot_bytes, None)
}

/// As [`ring()`], for a reader that waits for several rings: each frame, and the end, rings the bell.
pub fn ring_with_bell(policy: Policy, slots: usize, slot_bytes: usize, bell: &Arc<Bell>) -> (Writer, Reader) {
    with(policy, slots, slot_bytes, Some(Arc::clone(bell)))
}

fn with(policy: Policy, slots: usize, slot_bytes: usize, bell: Option<Arc<Bell>>) -> (Writer, Reader) {
    let core = Mutex::new(Core::new(policy, slots, slot_bytes));
    let shared = Arc::new(Shared { core, changed: Condvar::new(), bell });
    (Writer(Arc::clone(&shared)), Reader(shared))
}

/// Result of a [`Writer::fill`].
#[derive(Debug, PartialEq, Eq)]
pub enum Fill<T, E> {
    /// The frame is in the ring.
    Committed(T),
    /// The fill failed; the ring is as before.
    Failed(E),
    /// The frame does not fit: this many bytes are the maximum.
    NoRoom(usize),
    /// The reader is gone.
    Closed,
}

/// The capture thread's end. Dropping it closes the ring: the reader still gets what is ready.
pub struct Writer(Arc<Shared>);

impl Writer {
    /// Fills a slot in place and publishes it if `fill` succeeds. In [`Policy::Lossless`] waits for a free slot.
    pub fn fill<T, E>(&self, fill: impl FnOnce(&mut Slot) -> Result<T, E>) -> Fill<T, E> {
        self.fill_sized(0, fill)
    }

    /// Sets the limit for the sum of the ring's buffers, bytes; never less than they have.
    pub fn allow(&self, bytes_max: usize) {
        let mut core = self.0.lock();
        core.bytes_max = bytes_max.max(core.bytes);
    }

    /// As [`Writer::fill`], with a slot of at least `bytes`: a smaller slot is enlarged, within the ring's memory.
    pub fn fill_sized<T, E>(&self, bytes: usize, fill: impl FnOnce(&mut Slot) -> Result<T, E>) -> Fill<T, E> {
        let mut core = self.0.lock();
        let mut slot = loop {
            if core.closed {
                return Fill::Closed;
            }
            match core.begin() {
                Some(slot) => break slot,
                None => core = self.0.changed.wait(core).unwrap_or_else(PoisonError::into_inner),
            }
        };
        if slot.bytes.len() < bytes {
            match core.grow(slot.bytes.len(), bytes) {
                Ok(larger) => {
                    drop(core);
                    // Free the old buffer first.
                    slot.bytes = Box::default();
                    slot.bytes = vec![0; larger].into_boxed_slice();
                }
                Err(most) => {
                    core.release(slot);
                    return Fill::NoRoom(most);
                }
            }
        } else {
            drop(core);
        }
        let outcome = fill(&mut slot);
        let mut core = self.0.lock();
        match outcome {
            Ok(value) => {
                core.commit(slot);
                drop(core);
                self.0.changed.notify_all();
                self.0.call_reader();
                Fill::Committed(value)
            }
            Err(error) => {
                core.release(slot);
                Fill::Failed(error)
            }
        }
    }

    /// Frames that were replaced before they were read.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Result of [`Reader::take`].
pub enum Taken {
    /// A frame; its slot is returned when the guard is dropped.
    Frame(SlotGuard),
    /// None within the given time.
    TimedOut,
    /// The writer is gone and everything has been read.
    Closed,
}

/// The pipeline's end. Dropping it closes the ring: the writer stops waiting.
pub struct Reader(Arc<Shared>);

impl Reader {
    /// The next frame under the ring's policy, waiting at most `patience`.
    pub fn take(&self, patience: Duration) -> Taken {
        let core = self.0.lock();
        let (mut core, _) = self
            .0
            .changed
            .wait_timeout_while(core, patience, |core| core.ready.is_empty() && !core.closed)
            .unwrap_or_else(PoisonError::into_inner);
        match core.take() {
            Some(slot) => Taken::Frame(SlotGuard { slot: Some(slot), shared: Arc::clone(&self.0) }),
            None if core.closed => Taken::Closed,
            None => Taken::TimedOut,
        }
    }

    /// The next frame under the ring's policy, if there is one.
    pub fn try_take(&self) -> Taken {
        self.take(Duration::ZERO)
    }

    /// Whether a frame is waiting.
    pub fn has_frame(&self) -> bool {
        !self.0.lock().ready.is_empty()
    }

    /// The ring's policy.
    pub fn policy(&self) -> Policy {
        self.0.lock().policy
    }

    /// Frames that were replaced before they were read.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A frame borrowed from the ring.
pub struct SlotGuard {
    slot: Option<Slot>,
    shared: Arc<Shared>,
}

impl Deref for SlotGuard {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        self.slot.as_ref().expect("only drop takes the slot out")
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.lock().release(slot);
            self.shared.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn put(writer: &Writer, seq: u64) -> bool {
        matches!(
            writer.fill(|slot| {
                slot.meta.seq = seq;
                Ok::<_, ()>(())
            }),
            Fill::Committed(())
        )
    }

    fn get(reader: &Reader) -> Option<SlotGuard> {
        match reader.take(Duration::ZERO) {
            Taken::Frame(guard) => Some(guard),
            Taken::TimedOut | Taken::Closed => None,
        }
    }

    #[test]
    fn s14_formula_table() {
        const GB: u64 = 1 << 30;
        for (ram, fps, slot, budget, slots) in [
            (8 * GB, 6.0, 1 << 20, 1 << 30, Some(30)),   // the guide's base case
            (16 * GB, 6.0, 1 << 20, 1 << 30, Some(60)),  // twice the memory
            (64 * GB, 6.0, 1 << 20, 1 << 30, Some(60)),  // memory counts twice at most
            (8 * GB, 30.0, 1 << 20, 1 << 30, Some(15)),  // fast: half
            (4 * GB, 15.0, 1 << 20, 1 << 30, Some(10)),  // clamped from below
            (64 * GB, 0.5, 1 << 20, 1 << 30, Some(200)), // clamped from above
            (8 * GB, 6.0, 1 << 20, 12 << 20, Some(12)),  // the budget caps
            (8 * GB, 6.0, 1 << 20, 3 << 20, Some(3)),    // exactly the fewest
            (8 * GB, 6.0, 1 << 20, (3 << 20) - 1, None), // one byte too few
        ] {
            assert_eq!(slots_for(ram, fps, slot, budget), slots, "{ram} {fps} {slot} {budget}");
        }
    }

    /// Frames that are larger than a slot get larger ones and leave fewer of them; the sum of the buffers never grows.
    #[test]
    fn slots_grow_with_the_frames_within_the_memory_of_the_ring() {
        for policy in [Policy::NewestWins, Policy::Lossless] {
            let (writer, reader) = ring(policy, 10, 100);
            let fill = |bytes: usize| {
                writer.fill_sized(bytes, |slot| {
                    assert!(slot.bytes.len() >= bytes, "{} of {bytes}", slot.bytes.len());
                    slot.meta.bytes_used = bytes;
                    Ok::<_, ()>(())
                })
            };
            let sum = || {
                let core = writer.0.lock();
                let buffers: usize = core.free.iter().chain(&core.ready).map(|slot| slot.bytes.len()).sum();
                assert_eq!((core.free.len() + core.ready.len(), buffers), (core.slots, core.bytes));
                (core.slots, core.bytes)
            };
            for (bytes, slots) in [(100, 10), (150, 9), (300, 8)] {
                assert_eq!(fill(bytes), Fill::Committed(()));
                let (have, sum) = sum();
                assert!(have == slots && sum <= 1000, "{bytes}: {have} slots of {sum}");
                drop(get(&reader));
            }
            // Three slots must stay, whatever they have.
            let Fill::NoRoom(most) = fill(900) else { panic!() };
            assert!((300..900).contains(&most), "{most}");
            assert!(sum().0 >= RING_SLOTS_MIN && sum().1 <= 1000);
            assert_eq!(fill(most), Fill::Committed(()));
            writer.allow(10_000);
            assert_eq!(fill(4000), Fill::Committed(()));
            assert!(sum().1 <= 10_000);
        }
    }

    #[test]
    fn a_bell_wakes_the_reader_of_several_rings() {
        let bell = Arc::new(Bell::default());
        let (first, first_reader) = ring_with_bell(Policy::NewestWins, 3, 8, &bell);
        let (second, second_reader) = ring_with_bell(Policy::Lossless, 3, 8, &bell);
        let waiting = std::thread::spawn({
            let bell = Arc::clone(&bell);
            move || {
                let mut frames = std::vec::Vec::new();
                // A ring between the check and the wait is not missed: the count is read before.
                loop {
                    let seen = bell.count();
                    let mut ends = 0;
                    for reader in [&first_reader, &second_reader] {
                        loop {
                            match reader.try_take() {
                                Taken::Frame(slot) => frames.push(slot.meta.seq),
                                Taken::TimedOut => break,
                                Taken::Closed => {
                                    ends += 1;
                                    break;
                                }
                            }
                        }
                    }
                    if ends == 2 {
                        return frames;
                    }
                    bell.wait(seen, Duration::from_secs(60));
                }
            }
        });
        for seq in 0..3 {
            assert!(put(&second, seq));
        }
        drop(second);
        assert!(put(&first, 9));
        drop(first);
        let mut frames = waiting.join().unwrap();
        frames.sort_unstable();
        assert_eq!(frames, [0, 1, 2, 9]);
        bell.wait(u64::MAX, Duration::ZERO);
    }

    #[test]
    fn a_failed_fill_publishes_nothing() {
        let (writer, reader) = ring(Policy::NewestWins, 3, 8);
        for _ in 0..10 {
            assert_eq!(
                writer.fill(|slot| {
                    slot.meta.seq = 9;
                    Err::<(), _>("torn")
                }),
                Fill::Failed("torn")
            );
            assert!(get(&reader).is_none());
        }
        assert!(put(&writer, 1));
        assert_eq!(get(&reader).unwrap().meta.seq, 1);
        assert_eq!(writer.dropped(), 0);
    }

    /// Counts the buffers on loan.
    #[derive(Default)]
    struct Library(Mutex<std::vec::Vec<u32>>);

    impl crate::capture::frame::Lender for Library {
        fn bytes(&self, _: u32) -> &[u8] {
            b"lent bytes"
        }
        fn give_back(&self, buffer: u32) {
            self.0.lock().unwrap().retain(|lent| *lent != buffer);
        }
    }

    #[test]
    fn lent_buffers_are_read_in_place_and_returned_as_soon_as_possible() {
        let library = Arc::new(Library::default());
        let (writer, reader) = ring(Policy::NewestWins, 3, 0);
        let put = |buffer: u32| {
            library.0.lock().unwrap().push(buffer);
            let lender: Arc<dyn crate::capture::frame::Lender> = Arc::clone(&library) as _;
            let filled = writer.fill(|slot| {
                slot.lent = Some(Lease::new(lender, buffer));
                slot.meta.bytes_used = 4;
                Ok::<_, ()>(())
            });
            assert_eq!(filled, Fill::Committed(()));
        };
        let lent = || library.0.lock().unwrap().clone();
        (0..5).for_each(put);
        assert_eq!(lent(), [2, 3, 4], "as many as there are slots, the newest");
        let frame = get(&reader).unwrap();
        assert_eq!((frame.valid(), lent()), (&b"lent"[..], vec![4]), "the older ones are not waited for");
        (5..8).for_each(put);
        assert_eq!(lent(), [4, 6, 7]);
        drop(frame);
        assert_eq!(lent(), [6, 7]);
        assert_eq!(writer.fill(|_| Err::<(), _>(())), Fill::Failed(()));
        assert_eq!(lent(), [6, 7]);
        drop((writer, reader));
        assert!(lent().is_empty());
    }

    proptest! {
        /// Both policies compared with a queue of numbers; slots are conserved at every step.
        #[test]
        fn the_ring_behaves_like_its_model(newest in any::<bool>(), slots in 3usize..7, steps in proptest::collection::vec(0u8..3, 0..200)) {
            let policy = if newest { Policy::NewestWins } else { Policy::Lossless };
            let (writer, reader) = ring(policy, slots, 8);
            let mut model: VecDeque<u64> = VecDeque::new();
            let (mut next, mut dropped, mut held) = (0u64, 0u64, None::<SlotGuard>);
            for step in steps {
                match step {
                    0 => {
                        let full = model.len() + usize::from(held.is_some()) == slots;
                        if full && !newest { continue } // would wait for ever in one thread
                        if full { model.pop_front(); dropped += 1; }
                        prop_assert!(put(&writer, next));
                        model.push_back(next);
                        next += 1;
                    }
                    1 => {
                        drop(held.take());
                        held = get(&reader);
                        let expected = if newest {
                            let newest = model.pop_back();
                            dropped += model.len() as u64;
                            model.clear();
                            newest
                        } else { model.pop_front() };
                        prop_assert_eq!(held.as_ref().map(|slot| slot.meta.seq), expected);
                    }
                    _ => held = None,
                }
                let core = writer.0.lock();
                prop_assert_eq!(core.free.len() + core.ready.len() + usize::from(held.is_some()), slots);
                prop_assert_eq!(core.dropped, dropped);
            }
        }
    }

    #[test]
    fn lossless_hands_over_every_frame_between_threads() {
        let (writer, reader) = ring(Policy::Lossless, 3, 8);
        let thread = std::thread::spawn(move || (0..10_000).all(|seq| put(&writer, seq)));
        let mut expected = 0;
        loop {
            match reader.take(Duration::from_secs(10)) {
                Taken::Frame(slot) => {
                    assert_eq!(slot.meta.seq, expected);
                    expected += 1;
                }
                Taken::Closed => break,
                Taken::TimedOut => panic!("the writer stalled at {expected}"),
            }
        }
        assert!(thread.join().unwrap());
        assert_eq!((expected, reader.dropped()), (10_000, 0));
    }

    #[test]
    fn newest_wins_between_threads_counts_what_it_drops() {
        let (writer, reader) = ring(Policy::NewestWins, 4, 8);
        let thread = std::thread::spawn(move || {
            (0..50_000).for_each(|seq| assert!(put(&writer, seq)));
            writer.dropped()
        });
        let (mut seen, mut last) = (0u64, None);
        loop {
            match reader.take(Duration::from_secs(10)) {
                Taken::Frame(slot) => {
                    assert!(last < Some(slot.meta.seq));
                    last = Some(slot.meta.seq);
                    seen += 1;
                }
                Taken::Closed => break,
                Taken::TimedOut => panic!("the writer stalled"),
            }
        }
        thread.join().unwrap();
        assert_eq!(last, Some(49_999), "the newest frame is never lost");
        assert_eq!(seen + reader.dropped(), 50_000);
    }

    #[test]
    fn a_dropped_reader_releases_a_waiting_writer() {
        let (writer, reader) = ring(Policy::Lossless, 3, 8);
        let thread = std::thread::spawn(move || (0..10).take_while(|seq| put(&writer, *seq)).count());
        drop(reader);
        assert!(thread.join().unwrap() <= 3);
    }
}
