//! Reading a text and writing on after it, with SmolLM2-135M's shape and random weights: prefill up to 8k and 32k tokens, then
//! tokens one at a time, with the cache in bf16 and in int8: `cargo bench --bench reading [-- --device cuda:0 --threads N
//! --contexts N,N]`.

mod flags;
mod harness;

use flags::{device, number, numbers};
use harness::{Bench, Stopwatch, Table, Timing, run_on, time};
use pose_engine::backend::Element;
use pose_engine::index::TokenId;
use pose_engine::infer::{Reads, Session};
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::Reading;
use pose_engine::model::cache::CacheFormat;
use pose_engine::model::{Config, Model};

/// Where decoding is timed, unless `--contexts` says so.
const CONTEXTS: &str = "8192,32768";
/// Room for the tokens that are decoded there.
const ROOM: usize = 64;

/// What reading tokens past..end takes: products with every layer's weights and attention to all that came before. The head
/// is left out: only the last token of a text goes through it.
fn reading_flops(config: &Config, weights: usize, past: usize, end: usize) -> f64 {
    let attention = config.attention_shape(1, end - past, end).flops() * config.num_hidden_layers as f64;
    2.0 * (weights * (end - past)) as f64 + attention
}

/// What decoding one token must read: all weights once, and the keys and values of the context.
fn decoding_bytes(config: &Config, parameters: usize, cache: CacheFormat, context: usize) -> f64 {
    let width = config.num_key_value_heads * config.head_dim;
    let token = match cache {
        CacheFormat::Act => 2 * width,
        CacheFormat::Int8 => width + 4 * config.num_key_value_heads,
    };
    (2 * parameters + 2 * token * context * config.num_hidden_layers) as f64
}

/// The medians of rounds in which decoding and the bandwidth are measured in turn: where a machine's memory serves others
/// too, what it gives changes from one second to the next.
fn beside_bandwidth<B: Stopwatch>(b: &B, mut call: impl FnMut()) -> (Timing, f64) {
    const ROUNDS: usize = 7;
    let (mut times, mut bandwidths) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bandwidths.push(b.bandwidth());
        times.push(time(b, &mut call));
    }
    bandwidths.sort_by(f64::total_cmp);
    times.sort_by(|x, y| x.median.total_cmp(&y.median));
    (times[ROUNDS / 2], bandwidths[ROUNDS / 2])
}

fn read<B: Stopwatch>(
    b: &B, table: &mut Table, config: &Config, model: &Model<B>, cache: CacheFormat, contexts: &[usize],
) {
    let name = if cache == CacheFormat::Int8 { "int8" } else { "bf16" };
    let last = contexts.iter().copied().max().unwrap_or(0);
    let reading = Reading { cache, ..Reading::of(last + ROOM) };
    b.reserve_scratch(Session::scratch_bytes(b, model, reading)).expect("memory");
    let mut session = Session::allocate(b, &mut Ledger::live(), model, reading).expect("memory");
    let ids: Vec<TokenId> = (0..last).map(|t| TokenId((t * 7919 % config.vocab_size) as u32)).collect();
    let parameters = model.parameters();
    let weights = parameters - config.vocab_size * config.hidden_size;
    let mut past = 0;
    for &context in contexts {
        let seconds = b.seconds(&mut || {
            session.feed(b, model, &ids[past..context], &mut |_| {}).expect("reading");
        });
        let once = Timing { median: seconds, spread: 0.0 };
        let flops = reading_flops(config, weights, past, context);
        table.row(&format!("  {name}: reading {past}..{context}"), once, flops, 0.0);
        let (t, bandwidth) = beside_bandwidth(b, || {
            session.rewind(context);
            session.feed(b, model, &ids[..1], &mut |_| {}).expect("decoding");
        });
        let bytes = decoding_bytes(config, parameters, cache, context);
        table.peak_gbs = bandwidth;
        table.row(&format!("  {name}: token after {context}, of {bandwidth:.1} GB/s"), t, 0.0, bytes);
        session.rewind(context);
        past = context;
    }
}

struct ReadingOn {
    contexts: Vec<usize>,
}

impl Bench for ReadingOn {
    fn run<B: Stopwatch>(&self, b: &B) {
        println!("\n{}", b.about());
        let mut table = Table::new(B::Act::NAME, &b.peaks(), false);
        let config = Config::preset("smollm2-135m").expect("a built-in preset");
        let mut model = Model::allocate(b, &mut Ledger::live(), &config, &config.rope).expect("memory");
        model.initialise(b, 1).expect("initial weights");
        for cache in [CacheFormat::Act, CacheFormat::Int8] {
            read(b, &mut table, &config, &model, cache, &self.contexts);
        }
    }
}

fn main() {
    let contexts = numbers("--contexts", CONTEXTS);
    run_on(device(), number("--threads", 0), false, &ReadingOn { contexts });
}
