//! The thread pool that runs a plan: threads take tasks from one counter, in order, and wait where a step needs the previous one.
//!
//! ```text
//!   tickets  0 1 2 3 | 4 5 | 6 7 8 9 …      a step is some tickets in a row
//!   next ──────────────────────► the next to be taken
//!   done ──────────────► how many are finished: a step begins when all before it are
//!   limit ─────────────────────────────► up to which there is work
//! ```
//! The counters only grow, run after run, so nothing is ever reset while another thread reads it. A thread without work spins for some
//! microseconds, then sleeps until the next run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};

use crate::base::error::Result;
use crate::platform::threads;

/// How often a thread without work checks again before it sleeps: some tens of microseconds, the duration of a step that has too few tasks
/// for all threads.
const LOOKS: u32 = 4000;

/// The work: a list of steps, each with tasks.
pub trait Work: Sync {
    /// The first task of each step; the last number is the total. The list may change between runs.
    fn begins(&self) -> &[u64];

    /// Runs a task of a step, as worker `worker`.
    fn task(&self, step: usize, task: u64, worker: usize);
}

#[derive(Debug, Default)]
struct Counters {
    next: AtomicU64,
    done: AtomicU64,
    limit: AtomicU64,
    /// Tickets of earlier runs.
    base: AtomicU64,
    end: AtomicBool,
}

/// The threads of one piece of work.
#[derive(Debug)]
pub struct ThreadPool {
    counters: Arc<Counters>,
    others: Vec<(JoinHandle<()>, Thread)>,
}

impl ThreadPool {
    /// `workers` threads in total, including the caller of [`Self::run`].
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new<W: Work + Send + 'static>(work: &Arc<W>, workers: usize) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut others = Vec::new();
        for worker in 1..workers {
            let (work, counters) = (Arc::clone(work), Arc::clone(&counters));
            let name = format!("engine-{worker}");
            let thread = threads::spawn(&name, move || serve(&*work, &counters, worker))?;
            let handle = thread.thread().clone();
            others.push((thread, handle));
        }
        Ok(ThreadPool { counters, others })
    }

    /// Runs all of the work once.
    pub fn run<W: Work>(&self, work: &W) {
        let begins = work.begins();
        let total = begins.last().copied().unwrap_or(0);
        if self.others.is_empty() {
            for step in 0..begins.len() - 1 {
                for ticket in begins[step]..begins[step + 1] {
                    work.task(step, ticket - begins[step], 0);
                }
            }
            return;
        }
        let counters = &*self.counters;
        let base = counters.limit.load(Ordering::Relaxed);
        counters.base.store(base, Ordering::Relaxed);
        counters.limit.store(base + total, Ordering::Release);
        for (_, other) in &self.others {
            other.unpark();
        }
        let mut step = 0;
        while take(work, counters, 0, &mut step) {}
        wait_for(&counters.done, base + total);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.counters.end.store(true, Ordering::Release);
        for (thread, other) in self.others.drain(..) {
            other.unpark();
            let _ended = thread.join();
        }
    }
}

/// Waits until the counter reaches the value. The other threads are running, so it does not take long; one that lost its core gets this
/// one.
fn wait_for(counter: &AtomicU64, value: u64) {
    let mut looks = 0u32;
    while counter.load(Ordering::Acquire) < value {
        looks += 1;
        if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

fn serve<W: Work>(work: &W, counters: &Counters, worker: usize) {
    loop {
        let mut step = 0;
        while take(work, counters, worker, &mut step) {}
        let mut looks = 0u32;
        while counters.next.load(Ordering::Relaxed) >= counters.limit.load(Ordering::Acquire) {
            if counters.end.load(Ordering::Acquire) {
                return;
            }
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::park() }
        }
    }
}

/// Takes one task and runs it. False: there is none. `step` is the step of the previous task.
fn take<W: Work>(work: &W, counters: &Counters, worker: usize, step: &mut usize) -> bool {
    let mut ticket = counters.next.load(Ordering::Relaxed);
    loop {
        // Reading the limit also makes the base and all earlier results visible.
        if ticket >= counters.limit.load(Ordering::Acquire) {
            return false;
        }
        match counters.next.compare_exchange_weak(ticket, ticket + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(other) => ticket = other,
        }
    }
    let base = counters.base.load(Ordering::Relaxed);
    let (begins, task) = (work.begins(), ticket - base);
    // The previous task may belong to another, longer list.
    *step = (*step).min(begins.len() - 2);
    while begins[*step + 1] <= task {
        *step += 1;
    }
    while begins[*step] > task {
        *step -= 1;
    }
    wait_for(&counters.done, base + begins[*step]);
    work.task(*step, task - begins[*step], worker);
    counters.done.fetch_add(1, Ordering::Release);
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Each task records itself, and that all tasks of the previous steps were done.
    struct Notes {
        begins: Vec<u64>,
        /// Every other run uses these.
        short: Vec<u64>,
        is_short: AtomicBool,
        done: Vec<AtomicU64>,
        early: AtomicU64,
        workers: Mutex<Vec<usize>>,
    }

    impl Work for Notes {
        fn begins(&self) -> &[u64] {
            if self.is_short.load(Ordering::Relaxed) { &self.short } else { &self.begins }
        }

        fn task(&self, step: usize, task: u64, worker: usize) {
            if self.is_short.load(Ordering::Relaxed) {
                self.early
                    .fetch_add(u64::from(self.short[step] + task >= self.short[step + 1]), Ordering::SeqCst);
                return;
            }
            let place = self.begins[step] + task;
            let run = self.done[place as usize].fetch_add(1, Ordering::SeqCst);
            for before in &self.done[..self.begins[step] as usize] {
                self.early.fetch_add(u64::from(before.load(Ordering::SeqCst) <= run), Ordering::SeqCst);
            }
            let mut workers = self.workers.lock().unwrap();
            if !workers.contains(&worker) {
                workers.push(worker);
            }
        }
    }

    #[test]
    fn every_task_is_done_once_a_run_and_no_step_begins_early() {
        for workers in [1, 2, 3, 4] {
            let begins = vec![0, 5, 6, 6, 20, 21, 50];
            let done = (0..50).map(|_| AtomicU64::new(0)).collect();
            let (short, is_short) = (vec![0, 2, 4], AtomicBool::new(false));
            let notes =
                Notes { begins, short, is_short, done, early: AtomicU64::new(0), workers: Mutex::default() };
            let work = Arc::new(notes);
            let pool = ThreadPool::new(&work, workers).unwrap();
            for run in 1..=200 {
                pool.run(&*work);
                work.is_short.store(true, Ordering::Relaxed);
                pool.run(&*work);
                work.is_short.store(false, Ordering::Relaxed);
                assert!(work.done.iter().all(|count| count.load(Ordering::SeqCst) == run), "{workers} {run}");
                if run % 50 == 0 {
                    std::thread::park_timeout(std::time::Duration::from_millis(5)); // The others fall asleep.
                }
            }
            assert_eq!(work.early.load(Ordering::SeqCst), 0, "{workers}");
            assert!(work.workers.lock().unwrap().len() <= workers);
        }
    }

    /// A worker that was paused between two runs comes back with the last step of a longer list.
    #[test]
    fn a_step_of_another_list_is_forgotten() {
        let notes = Notes {
            begins: vec![0],
            short: vec![0, 2, 4],
            is_short: AtomicBool::new(true),
            done: Vec::new(),
            early: AtomicU64::new(0),
            workers: Mutex::default(),
        };
        let counters = Counters { limit: AtomicU64::new(4), ..Counters::default() };
        let mut step = 90;
        for expected in [0, 0, 1, 1] {
            assert!(take(&notes, &counters, 1, &mut step));
            assert_eq!(step, expected);
        }
        assert!(!take(&notes, &counters, 1, &mut step));
        assert_eq!(notes.early.load(Ordering::SeqCst), 0);
    }
}
