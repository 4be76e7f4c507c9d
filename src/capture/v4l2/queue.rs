//! The buffer queue shared with the kernel. No system calls of its own: those are behind [`Kernel`].
//!
//! ```text
//!             start, give_back (QBUF)            kernel fills
//!   ours ──────────────────────────► queued ──────────────────► done
//!    ▲                                                            │ dequeue (DQBUF)
//!    └───────────────────────── held by a Lease ◄─────────────────┘
//! ```
//! While streaming every buffer is in exactly one place: queued (or done) + held = all of them. A [`Lease`] returns its buffer when it is
//! dropped, on whichever thread that is; one that outlives its stream only marks it as free.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::capture::frame::{Lease, Lender};

/// Maximum number of buffers of a camera; one bit each in [`State::held`].
pub(super) const BUFFERS_MAX: u32 = 32;

/// A buffer that the kernel has filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dequeued {
    /// Index of the buffer.
    pub(super) index: u32,
    /// Valid bytes, as the driver says.
    pub(super) bytes_used: u32,
    /// The driver's frame number; wraps.
    pub(super) sequence: u32,
    /// When the picture was taken, nanoseconds of the monotonic clock; `None` if the driver uses another clock.
    pub(super) monotonic_nanos: Option<u64>,
    /// The driver reports damaged contents.
    pub(super) damaged: bool,
}

/// Result of waiting for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// A frame is ready.
    Frame,
    /// None within the time limit.
    Nothing,
    /// The device is gone or its stream is broken.
    Gone,
}

/// The queue's calls to the kernel: one `ioctl` each.
pub(super) trait Kernel: Send + Sync {
    /// Number of buffers.
    fn buffers(&self) -> u32;
    /// The memory of a buffer.
    fn bytes(&self, index: u32) -> &[u8];
    /// VIDIOC_QBUF.
    fn queue(&self, index: u32) -> io::Result<()>;
    /// VIDIOC_DQBUF; `None` if no buffer is done.
    fn dequeue(&self) -> io::Result<Option<Dequeued>>;
    /// VIDIOC_STREAMON.
    fn start(&self) -> io::Result<()>;
    /// VIDIOC_STREAMOFF: all buffers become ours again, whatever is in them.
    fn stop(&self) -> io::Result<()>;
    /// Waits for a frame or the loss of the device.
    fn wait(&self, patience: Duration) -> io::Result<Ready>;
}

#[derive(Debug, Default)]
struct State {
    streaming: bool,
    /// One bit for each buffer that a lease holds.
    held: u32,
    /// Buffers that the kernel did not take back.
    refused: u64,
}

/// The buffers of one open camera.
pub(super) struct Queue<K> {
    kernel: K,
    state: Mutex<State>,
}

impl<K: Kernel + 'static> Queue<K> {
    /// Starts with nothing queued.
    pub(super) fn new(kernel: K) -> Arc<Self> {
        assert!(kernel.buffers() <= BUFFERS_MAX, "more buffers than bits");
        Arc::new(Queue { kernel, state: Mutex::new(State::default()) })
    }

    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Every change below is complete before the lock is released.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues every buffer that is not held and starts the stream.
    ///
    /// # Errors
    /// The kernel's error; the stream is then stopped.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut state = self.lock();
        let mut free = (0..self.kernel.buffers()).filter(|index| state.held & (1 << index) == 0);
        let started = free.try_for_each(|index| self.kernel.queue(index));
        let started = started.and_then(|()| self.kernel.start());
        match started {
            Ok(()) => state.streaming = true,
            Err(_) => {
                // It takes back what was queued; an error changes nothing.
                let _stopped = self.kernel.stop();
            }
        }
        started
    }

    /// Stops the stream. Leases stay valid.
    ///
    /// # Errors
    /// The kernel's error, such as a missing device; it counts as stopped all the same.
    pub(super) fn stop(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.streaming = false;
        self.kernel.stop()
    }

    /// Takes the oldest frame that is done.
    ///
    /// # Errors
    /// The kernel's error; or an impossible buffer index (`InvalidData`).
    pub(super) fn dequeue(self: &Arc<Self>) -> io::Result<Option<(Dequeued, Lease)>> {
        let mut state = self.lock();
        let Some(done) = self.kernel.dequeue()? else { return Ok(None) };
        if done.index >= self.kernel.buffers() || state.held & (1 << done.index) != 0 {
            let text = format!("the driver gave buffer {} of {}", done.index, self.kernel.buffers());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        state.held |= 1 << done.index;
        let lender: Arc<dyn Lender> = Arc::clone(self) as Arc<dyn Lender>;
        Ok(Some((done, Lease::new(lender, done.index))))
    }

    /// Buffers that leases hold.
    pub(super) fn held(&self) -> u32 {
        self.lock().held.count_ones()
    }

    /// Buffers that the kernel refused to take back, so far: unused until the next start.
    pub(super) fn refused(&self) -> u64 {
        self.lock().refused
    }
}

impl<K: Kernel + 'static> Lender for Queue<K> {
    fn bytes(&self, buffer: u32) -> &[u8] {
        self.kernel.bytes(buffer)
    }

    fn give_back(&self, buffer: u32) {
        let mut state = self.lock();
        state.held &= !(1 << buffer);
        if state.streaming && self.kernel.queue(buffer).is_err() {
            state.refused += 1;
        }
    }
}

impl<K> Drop for Queue<K> {
    fn drop(&mut self) {
        // Closing the device (unmap, close) is up to K. Nobody holds a lease: each has a reference to this.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        debug_assert_eq!(state.held, 0, "a lease outlived its queue");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Default)]
    struct Model {
        queued: VecDeque<u32>,
        done: VecDeque<u32>,
        streaming: bool,
        gone: bool,
        sequence: u32,
    }

    /// A fake kernel queue: refuses what a real one refuses.
    struct FakeKernel {
        buffers: Vec<Vec<u8>>,
        model: Mutex<Model>,
    }

    impl FakeKernel {
        fn new(count: u32) -> Self {
            FakeKernel { buffers: (0..count).map(|n| vec![n as u8; 4]).collect(), model: Mutex::default() }
        }

        fn with<T>(&self, act: impl FnOnce(&mut Model) -> io::Result<T>) -> io::Result<T> {
            let mut model = self.model.lock().unwrap();
            if model.gone { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { act(&mut model) }
        }

        /// The camera fills a buffer, if it has one.
        fn fill(&self) {
            let mut model = self.model.lock().unwrap();
            if model.streaming
                && let Some(index) = model.queued.pop_front()
            {
                model.done.push_back(index);
            }
        }
    }

    fn invalid<T>() -> io::Result<T> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    impl Kernel for FakeKernel {
        fn buffers(&self) -> u32 {
            self.buffers.len() as u32
        }
        fn bytes(&self, index: u32) -> &[u8] {
            &self.buffers[index as usize]
        }
        fn queue(&self, index: u32) -> io::Result<()> {
            self.with(|model| {
                if model.queued.contains(&index) || model.done.contains(&index) {
                    return invalid();
                }
                model.queued.push_back(index);
                Ok(())
            })
        }
        fn dequeue(&self) -> io::Result<Option<Dequeued>> {
            self.with(|model| {
                if !model.streaming {
                    return invalid();
                }
                let Some(index) = model.done.pop_front() else { return Ok(None) };
                model.sequence += 1;
                let sequence = model.sequence;
                Ok(Some(Dequeued { index, bytes_used: 4, sequence, monotonic_nanos: None, damaged: false }))
            })
        }
        fn start(&self) -> io::Result<()> {
            self.with(|model| {
                model.streaming = true;
                Ok(())
            })
        }
        fn stop(&self) -> io::Result<()> {
            self.with(|model| {
                (model.streaming, model.queued, model.done) = (false, VecDeque::new(), VecDeque::new());
                Ok(())
            })
        }
        fn wait(&self, _: Duration) -> io::Result<Ready> {
            Ok(Ready::Nothing)
        }
    }

    #[test]
    fn a_lease_outlives_stream_and_device() {
        let queue = Queue::new(FakeKernel::new(3));
        queue.start().unwrap();
        queue.kernel().fill();
        let (done, lease) = queue.dequeue().unwrap().unwrap();
        queue.kernel().model.lock().unwrap().gone = true;
        assert_eq!(queue.stop().unwrap_err().raw_os_error(), Some(libc::ENODEV));
        let weak = Arc::downgrade(&queue);
        drop(queue);
        assert_eq!(lease.bytes(), [done.index as u8; 4]);
        drop(lease);
        assert!(weak.upgrade().is_none(), "the last lease closes the device");
    }

    #[test]
    fn buffers_that_a_driver_does_not_own_are_refused() {
        let queue = Queue::new(FakeKernel::new(2));
        queue.start().unwrap();
        for index in [7, 2] {
            queue.kernel().model.lock().unwrap().done.push_back(index);
            assert_eq!(queue.dequeue().err().unwrap().kind(), io::ErrorKind::InvalidData);
        }
        queue.kernel().fill();
        let (done, lease) = queue.dequeue().unwrap().unwrap();
        queue.kernel().model.lock().unwrap().done.push_back(done.index);
        assert_eq!(queue.dequeue().err().unwrap().kind(), io::ErrorKind::InvalidData, "it is held");
        drop(lease);
    }

    #[test]
    fn a_buffer_that_is_not_taken_back_is_counted() {
        let queue = Queue::new(FakeKernel::new(2));
        queue.start().unwrap();
        queue.kernel().fill();
        let lease = queue.dequeue().unwrap().unwrap();
        queue.kernel().model.lock().unwrap().gone = true;
        drop(lease);
        assert_eq!((queue.refused(), queue.held()), (1, 0));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Fill,
        Dequeue,
        Drop(usize),
        Restart,
    }

    proptest! {
        /// Whatever happens in which order: while it streams, queued + held = all of them, each buffer once; nothing is refused; a lease's
        /// bytes are its own.
        #[test]
        fn queued_and_held_are_all(
            count in 1u32..=BUFFERS_MAX,
            steps in proptest::collection::vec(prop_oneof![
                4 => Just(Step::Fill), 4 => Just(Step::Dequeue), 3 => (0usize..8).prop_map(Step::Drop), 1 => Just(Step::Restart),
            ], 0..200),
        ) {
            let queue = Queue::new(FakeKernel::new(count));
            queue.start().unwrap();
            let mut leases: Vec<(Dequeued, Lease)> = Vec::new();
            for step in steps {
                match step {
                    Step::Fill => queue.kernel().fill(),
                    Step::Dequeue => leases.extend(queue.dequeue().unwrap()),
                    Step::Drop(at) if at < leases.len() => drop(leases.remove(at)),
                    Step::Drop(_) => {}
                    Step::Restart => {
                        queue.stop().unwrap();
                        // Some come back while nothing streams.
                        leases.pop();
                        queue.start().unwrap();
                    }
                }
                let model = queue.kernel().model.lock().unwrap();
                let mut places: Vec<u32> = model.queued.iter().chain(&model.done).copied().collect();
                places.extend(leases.iter().map(|(done, _)| done.index));
                places.sort_unstable();
                prop_assert_eq!(places, (0..count).collect::<Vec<_>>());
                drop(model);
                prop_assert_eq!((queue.held() as usize, queue.refused()), (leases.len(), 0));
                for (done, lease) in &leases {
                    prop_assert_eq!(lease.bytes(), [done.index as u8; 4]);
                }
            }
        }
    }
}
