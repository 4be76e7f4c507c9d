//! Our own executor as an [`Engine`].

use super::graph::Graph;
use super::kernels::Kernels;
use super::plan::{self, Options, Plan, PlanBuilder};
use super::{Costs, Engine, EngineParams, Output, Planned, Shape, StepTime};
use crate::base::error::{Error, Kind, Result};
use crate::vision::detect::decode::HeadShape;
use crate::vision::detect::letterbox::Size;

/// A planned network.
pub struct PlannedEngine<E> {
    plan: Plan<E>,
    /// The possible input sizes; the first is selected at the start.
    sizes: Vec<Size>,
    /// Index of the selected size.
    current: usize,
    head: HeadShape,
    params: EngineParams,
}

impl<E: Kernels> PlannedEngine<E> {
    /// Plans `graph`, which is fused and whose head names `classes` classes.
    ///
    /// # Errors
    /// One line: the operation that has no kernel.
    pub(super) fn builder(
        graph: Graph,
        classes: usize,
        params: EngineParams,
    ) -> std::result::Result<PlanBuilder<E>, String> {
        let shape = &graph.nodes[graph.output].shape;
        HeadShape::from_output(shape, classes).map_err(|error| error.to_string())?;
        PlanBuilder::new(graph, options(params))
    }

    /// The engine of a network that was planned for each of `sizes`, the largest first; all share the first one's
    /// weights.
    pub(super) fn planned(
        builders: Vec<PlanBuilder<E>>,
        sizes: Vec<Size>,
        head: HeadShape,
        params: EngineParams,
    ) -> Planned {
        let (shape, costs) = (Shape { sizes: sizes.clone(), head }, plan::costs(&builders));
        let start = move || -> Result<Box<dyn Engine>> {
            let plan = Plan::new(builders)
                .map_err(|why| Error::fatal(Kind::System, "the engine cannot start").caused_by(why))?;
            Ok(Box::new(PlannedEngine { plan, sizes, current: 0, head, params }))
        };
        Planned { shape, costs: Some(costs), start: Box::new(start) }
    }
}

fn options(EngineParams { threads, isa, .. }: EngineParams) -> Options {
    Options { isa, threads, winograd: true }
}

impl<E: Kernels> Engine for PlannedEngine<E> {
    fn size(&self) -> Size {
        self.sizes[self.current]
    }

    fn input_sizes(&self) -> &[Size] {
        &self.sizes
    }

    fn select(&mut self, index: usize) {
        self.plan.select(index);
        self.current = index;
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
            if self.plan.is_sparse() { "" } else { " (all computed each time)" },
            costs.macs as f64 / 1e9,
            costs.arena_bytes as f64 / 1e6,
            costs.weights_bytes as f64 / 1e6,
        )
    }
}
