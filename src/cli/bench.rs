//! `flytrap bench`: how long each stage of a frame takes on this machine, measured in one run.

use std::fmt::Write as _;

use std::path::PathBuf;

use clap::Args;

use super::{Failed, Settings, print, print_json};
use crate::config::values::Value;
use crate::metrics::kpi;
use crate::platform::cores;
use crate::tools::bench::{Figures, Layer, Params, Times, measure};
use crate::vision::detect::engine::Isa;

/// Arguments of `flytrap bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    settings: Settings,
    /// Threads for the network (model.threads).
    #[arg(long, value_name = "N")]
    threads: Option<i64>,
    /// Number of frames to time.
    #[arg(long, value_name = "N", default_value_t = 50)]
    frames: usize,
    /// Also time each layer, on one thread.
    #[arg(long)]
    layers: bool,
    /// Instruction set to use instead of the best one of this CPU: avx-512, avx2, neon, portable.
    #[arg(long, value_name = "NAME", value_parser = instructions)]
    instructions: Option<Isa>,
    /// JPEG or PNG files to run on in turn; without them, a noise frame of 1280x720.
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
}

fn instructions(name: &str) -> Result<Isa, String> {
    Isa::named(name).ok_or_else(|| {
        let names: Vec<_> = Isa::all().into_iter().map(Isa::name).collect();
        format!("this CPU has {}", names.join(", "))
    })
}

/// Measures, and prints a table or (`json`) one object.
pub(super) fn bench(args: BenchArgs, json: bool) -> Result<(), Failed> {
    let BenchArgs { settings, threads, frames, layers, instructions, pictures } = args;
    let threads = threads.map(|threads| ("model.threads", Value::Int(threads), "--threads"));
    let config = settings.load(threads.into_iter().collect(), json)?;
    super::start_log(&config);
    let mut model = config.model()?;
    if let Some(isa) = instructions {
        model.engine.isa = isa;
    }
    cores::run_on(&config.model.cores)?;
    let decode = config.first_camera().decode;
    let figures = measure(&Params { model, kpi: config.kpi, decode, frames, layers, pictures })?;
    if json {
        return print_json(&figures);
    }
    Ok(print(table(&figures).trim_end())?)
}

fn table(figures: &Figures) -> String {
    let mut out = String::new();
    let Figures { engine, frames, start_ms, rss_mb, .. } = figures;
    let heap = figures
        .heap_calls_per_frame
        .map_or_else(String::new, |calls| format!(", {calls} heap calls a frame"));
    let _fits = writeln!(
        out,
        "{engine}\n{frames} frames, ready after {start_ms:.0} ms, {rss_mb:.1} MB resident{heap}\n"
    );
    let _fits = writeln!(out, "{:<10} {:>9} {:>9} {:>9} {:>9}  ms", "", "min", "p50", "p95", "p99");
    for (name, times) in figures.stages.rows() {
        let Times { min, p50, p95, p99 } = times;
        let _fits = writeln!(out, "{name:<10} {min:>9.3} {p50:>9.3} {p95:>9.3} {p99:>9.3}");
    }
    if let (Some(rate), Some(peak)) = (figures.gmac_per_s, figures.peak_gmac_per_s) {
        let share = 100.0 * rate / peak;
        let _fits = writeln!(out, "\n{rate:.1} GMAC/s, {share:.0} % of one core's peak of {peak:.1}");
    }
    let _fits = writeln!(out, "\n{}", kpi::table(&figures.kpi).trim_end());
    if !figures.layers.is_empty() {
        let _fits = writeln!(out, "\n{:>9} {:>8} {:>8} {:<11} layer", "us", "GMAC/s", "MB", "kernel");
        for Layer { us, gmac_per_s, mb, kernel, name } in &figures.layers {
            let _fits = writeln!(out, "{us:>9.1} {gmac_per_s:>8.1} {mb:>8.2} {kernel:<11} {name}");
        }
    }
    out
}
