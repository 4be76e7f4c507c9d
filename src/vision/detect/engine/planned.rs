//! Our own executor as an [`Engine`].

use super::graph::Graph;
use super::kernels::Kernels;
use super::plan::{Options, Plan, Sketch};
use super::{Costs, Engine, EngineParams, Output, StepTime};
use crate::base::error::Result;
use crate::vision::detect::decode::HeadShape;
use crate::vision::detect::letterbox::Size;

/// A planned network.
pub struct PlannedEngine<E> {
    plan: Plan<E>,
    /// What it can be run at; the first at first.
    rungs: Vec<Size>,
    at: usize,
    head: HeadShape,
    params: EngineParams,
}

impl<E: Kernels> PlannedEngine<E> {
    /// Looks at `graph`, which is fused and whose head names `classes` classes.
    ///
    /// # Errors
    /// One line: what in it has no kernel.
    pub(super) fn sketch(
        graph: Graph,
        classes: usize,
        params: EngineParams,
    ) -> std::result::Result<Sketch<E>, String> {
        let shape = &graph.nodes[graph.output].shape;
        HeadShape::from_output(shape, classes).map_err(|error| error.to_string())?;
        Sketch::new(graph, options(params))
    }

    /// Plans what [`Self::sketch`] looked at, for each of `rungs`, the largest first; the others share its weights.
    ///
    /// # Errors
    /// One line: the system has no more threads; otherwise as [`Self::sketch`].
    pub(super) fn new(
        sketches: Vec<Sketch<E>>,
        rungs: Vec<Size>,
        classes: usize,
        params: EngineParams,
    ) -> std::result::Result<Self, String> {
        let plan = Plan::new(sketches)?;
        let head = HeadShape::from_output(plan.output_shape(), classes).map_err(|error| error.to_string())?;
        Ok(PlannedEngine { plan, rungs, at: 0, head, params })
    }
}

fn options(EngineParams { threads, isa, .. }: EngineParams) -> Options {
    Options { isa, threads, winograd: true }
}

impl<E: Kernels> Engine for PlannedEngine<E> {
    fn size(&self) -> Size {
        self.rungs[self.at]
    }

    fn rungs(&self) -> &[Size] {
        &self.rungs
    }

    fn select(&mut self, rung: usize) {
        self.plan.select(rung);
        self.at = rung;
    }

    fn head(&self) -> HeadShape {
        self.head
    }

    fn input(&mut self) -> &mut [f32] {
        self.plan.input()
    }

    fn run(&mut self, score_min: f32) -> Result<Output<'_>> {
        let (numbers, columns) = self.plan.run(score_min);
        Ok(Output { numbers, columns })
    }

    fn costs(&self) -> Option<Costs> {
        Some(self.plan.costs())
    }

    fn step_times(&mut self, now: &mut dyn FnMut() -> u64) -> Vec<StepTime> {
        self.plan.step_times(now)
    }

    fn observe(&mut self, each: &mut dyn FnMut(&str, [f32; 8])) -> bool {
        self.plan.observe(each);
        true
    }

    fn describe(&self) -> String {
        let (costs, threads) = (self.plan.costs(), self.params.threads);
        let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        format!(
            "{} {}, {threads}, input {}, {} classes, {} anchors{}, {:.2} GMAC, arena {:.1} MB, weights {:.1} MB",
            self.params.isa.name(),
            self.params.precision.name(),
            self.size(),
            self.head.classes,
            self.head.anchors,
            if self.plan.is_sparse() { "" } else { " (all of them each time)" },
            costs.macs as f64 / 1e9,
            costs.arena_bytes as f64 / 1e6,
            costs.weights_bytes as f64 / 1e6,
        )
    }
}
