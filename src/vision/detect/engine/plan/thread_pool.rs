//! The threads that run a plan: they take tasks from one counter, in order, and wait where a step needs the one before.
//!
//! ```text
//!   tickets  0 1 2 3 | 4 5 | 6 7 8 9 …      a step is some tickets in a row
//!   next ──────────────────────► the next to be taken
//!   done ──────────────► how many are finished: a step begins when all before it are
//!   limit ─────────────────────────────► up to which there is work
//! ```
//! The counters only grow, run after run, so nothing is ever reset while somebody looks at it. A thread without work looks for
//! some microseconds, then sleeps until the next run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};

/// How often a thread without work looks again before it sleeps: some tens of microseconds, as long as a step without enough
/// tasks for all takes.
const LOOKS: u32 = 4000;

/// What is run: a list of steps of tasks.
pub trait Work: Sync {
    /// Where each step begins in the row of tasks; the last number is how many tasks there are. Another list between runs is
    /// allowed.
    fn begins(&self) -> &[u64];

    /// Does a task of a step, as worker `worker`.
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
    /// `workers` threads in all, the caller of [`Self::run`] among them.
    ///
    /// # Errors
    /// As the system says: it has no more threads.
    pub fn new<W: Work + Send + 'static>(work: &Arc<W>, workers: usize) -> std::io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut others = Vec::new();
        for worker in 1..workers {
            let (work, counters) = (Arc::clone(work), Arc::clone(&counters));
            let name = format!("engine-{worker}");
            let thread =
                std::thread::Builder::new().name(name).spawn(move || serve(&*work, &counters, worker))?;
            let handle = thread.thread().clone();
            others.push((thread, handle));
        }
        Ok(ThreadPool { counters, others })
    }

    /// Does all of the work once.
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

/// Until the counter is there. The others are at work, so it does not take long; if one of them lost its core it gets this one.
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

/// Takes one task and does it. False: there is none. `step` is where the last one was.
fn take<W: Work>(work: &W, counters: &Counters, worker: usize, step: &mut usize) -> bool {
    let mut ticket = counters.next.load(Ordering::Relaxed);
    loop {
        // With the limit come the base and all that was done before.
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
    // The last task may have been one of another, longer list.
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

    /// Each task notes itself, and that all tasks of the steps before have.
    struct Notes {
        begins: Vec<u64>,
        /// Every other run has these.
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

    /// A worker that was stopped between two runs comes back with the last step of a longer list.
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
