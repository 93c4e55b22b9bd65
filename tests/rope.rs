//! Promise: rotary frequencies are those of transformers (tests/fixtures/rope.json), and angles are exact at any length.

use pose_engine::index::RopePosition;
use pose_engine::rope::{
    self, Dynamic, Llama3, LongRope, Rope, Scaling, ScalingKind, Yarn, base_warning, least_theta, phase,
    reach_warning, rebased, turns,
};
use proptest::prelude::*;
use serde_json::Value;

fn for_training(
    base: &Rope, kind: ScalingKind, target: usize, original: usize, factor: Option<f64>,
) -> pose_engine::error::Result<Rope> {
    rope::for_training(base, kind, (target, "--target-len"), original, factor)
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/rope.json")).expect("fixtures/rope.json is JSON")
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn scaling(case: &Value) -> Scaling {
    let p = &case["parameters"];
    let positions = case["max_position_embeddings"].as_u64().unwrap_or(131_072) as usize;
    let number = |key: &str| p[key].as_f64();
    let factor = number("factor").unwrap_or(1.0);
    let original = p["original_max_position_embeddings"].as_u64().unwrap_or(0) as usize;
    match p["rope_type"].as_str().expect("a type") {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor },
        "ntk" => Scaling::Ntk { factor },
        "yarn" => Scaling::Yarn(Yarn {
            beta_fast: number("beta_fast").unwrap_or(32.0),
            beta_slow: number("beta_slow").unwrap_or(1.0),
            attention_factor: number("attention_factor"),
            mscale: number("mscale"),
            mscale_all_dim: number("mscale_all_dim"),
            truncate: p["truncate"].as_bool().unwrap_or(true),
            ..Yarn::new(factor, original)
        }),
        "llama3" => Scaling::Llama3(Llama3 {
            factor,
            low_freq_factor: number("low_freq_factor").unwrap(),
            high_freq_factor: number("high_freq_factor").unwrap(),
            original,
        }),
        "dynamic" => Scaling::Dynamic(Dynamic { factor, original: positions, length: 0 }),
        "longrope" => Scaling::LongRope(LongRope {
            short_factor: numbers(&p["short_factor"]),
            long_factor: numbers(&p["long_factor"]),
            original,
            factor: number("factor").unwrap_or(positions as f64 / original as f64),
            attention_factor: number("attention_factor"),
            length: 0,
        }),
        other => panic!("the fixture has a type {other} that this test does not know"),
    }
}

/// Largest relative difference; a NaN comes out as NaN.
fn worst(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| ((a - b) / b).abs())
        .fold(0.0, |w: f64, d| if d <= w { w } else { d })
}

#[test]
fn frequencies_are_those_of_transformers() {
    let mut seen = 0;
    for case in fixture()["cases"].as_array().expect("cases") {
        let dim = case["dim"].as_u64().unwrap() as usize;
        let rope = Rope { theta: case["theta"].as_f64().unwrap(), rotary_dim: dim, scaling: scaling(case) };
        let rope = rope.for_length(case["length"].as_u64().unwrap_or(0) as usize);
        rope.check().unwrap_or_else(|e| panic!("{}: {e}", case["parameters"]));
        let ours = rope.inverse_frequencies();
        let f64_error = worst(&ours, &numbers(&case["inv_freq"]));
        assert!(f64_error < 1e-13, "{case}: {f64_error}");
        if case["inv_freq_f32"].is_array() {
            // what f32 costs transformers itself
            let f32_error = worst(&ours, &numbers(&case["inv_freq_f32"]));
            assert!(f32_error < 2e-6, "{case}: {f32_error}");
        }
        if case["changed_theta"].is_number() {
            let saved = rope.as_saved();
            assert_eq!(saved.scaling, Scaling::None);
            assert!(((saved.theta / case["changed_theta"].as_f64().unwrap()) - 1.0).abs() < 1e-14);
            assert_eq!(saved.inverse_frequencies(), ours);
        }
        let attention = case["attention_factor"].as_f64().unwrap();
        assert!((rope.attention_factor() - attention).abs() < 1e-14, "{case}");
        if let (Scaling::Yarn(y), true) = (&rope.scaling, case["revised_inv_freq"].is_array()) {
            let revised = Rope { scaling: Scaling::YarnRevised(y.clone()), ..rope.clone() };
            let error = worst(&revised.inverse_frequencies(), &numbers(&case["revised_inv_freq"]));
            assert!(error < 1e-12, "{case}: {error}");
            assert_eq!(revised.attention_factor(), rope.attention_factor());
        }
        seen += 1;
    }
    assert!(seen >= 92, "the fixture holds only {seen} cases");
}

#[test]
fn phases_stay_exact_to_position_two_to_the_twentieth() {
    for (theta, dim) in [(10000.0, 64), (500000.0, 128), (1e9, 20)] {
        let rope = Rope { theta, rotary_dim: dim, scaling: Scaling::None };
        for (f, t) in rope.inverse_frequencies().into_iter().zip(rope.turns()) {
            for position in [0, 1, 2, 255, 131_071, 262_144, 1_048_575, 1 << 20] {
                let (exact, ours) = (f64::from(position) * f, phase(RopePosition(position), t));
                assert!((exact.cos() - ours.cos()).abs() < 1e-9, "position {position}, frequency {f}");
                assert!((exact.sin() - ours.sin()).abs() < 1e-9, "position {position}, frequency {f}");
                assert!(ours.abs() <= std::f64::consts::PI);
            }
        }
    }
}

#[test]
fn a_turn_is_two_to_the_sixty_fourth_parts() {
    use std::f64::consts::TAU;
    assert_eq!(turns(TAU / 2.0), 1 << 63);
    assert_eq!(turns(TAU / 1024.0), 1 << 54);
    assert_eq!(phase(RopePosition(1024 * 77), 1 << 54), 0.0);
    assert_eq!(phase(RopePosition(256), 1 << 54), TAU / 4.0);
}

/// As a longrope factor of 0.1 makes of the first pair.
#[test]
fn more_than_a_turn_a_position_is_as_good_as_what_goes_beyond_it() {
    for frequency in [7.0, 10.0, 100.0] {
        for position in [1, 2, 1000, 131_071] {
            let (exact, ours) =
                (f64::from(position) * frequency, phase(RopePosition(position), turns(frequency)));
            assert!((exact.cos() - ours.cos()).abs() < 1e-9, "position {position}, frequency {frequency}");
            assert!((exact.sin() - ours.sin()).abs() < 1e-9, "position {position}, frequency {frequency}");
        }
    }
}

fn base() -> Rope {
    Rope { theta: 10000.0, rotary_dim: 64, scaling: Scaling::None }
}

#[test]
fn training_scales_by_target_over_original() {
    for kind in ScalingKind::ALL {
        let rope = for_training(&base(), kind, 16384, 2048, None).expect("eight times longer");
        assert_eq!(rope.for_length(16384), rope, "what depends on the length is the target's");
        assert_eq!(rope.scaling.name(), kind.name());
        assert_eq!(rope.scaling.factor(), (kind != ScalingKind::None).then_some(8.0));
        assert_eq!(kind.name().parse::<ScalingKind>(), Ok(kind));
        if kind != ScalingKind::None {
            let given = for_training(&base(), kind, 16384, 2048, Some(3.0)).expect("a factor of one's own");
            assert_eq!(given.scaling.factor(), Some(3.0));
        }
    }
}

#[test]
fn training_refuses_what_would_be_wrong() {
    let sentence = |base: &Rope, kind, target, factor| {
        for_training(base, kind, target, 2048, factor).expect_err("must be refused").to_string()
    };
    let scaled = for_training(&base(), ScalingKind::Linear, 4096, 2048, None).unwrap();
    assert!(
        sentence(&scaled, ScalingKind::Yarn, 16384, None).contains("scaled already (\"linear\", factor 2)")
    );
    assert_eq!(for_training(&scaled, ScalingKind::None, 16384, 2048, None).unwrap(), scaled);
    assert!(sentence(&base(), ScalingKind::Linear, 2048, None).contains("not above the model's 2048"));
    assert!(sentence(&base(), ScalingKind::Linear, 2048, None).contains("a larger --target-len"));
    assert!(sentence(&base(), ScalingKind::Linear, 4096, Some(1.0)).contains("changes nothing"));
    assert!(sentence(&base(), ScalingKind::Linear, 4096, Some(0.5)).contains("between 1 and"));
    assert!(sentence(&base(), ScalingKind::Linear, 4096, Some(f64::NAN)).contains("between 1 and"));
    assert!(sentence(&base(), ScalingKind::None, 4096, Some(2.0)).contains("--rope is none"));
    assert!("longrope".parse::<ScalingKind>().unwrap_err().contains("stand in a model's config.json"));
    let unknown = "yarm".parse::<ScalingKind>().unwrap_err();
    assert!(
        unknown.contains("none, linear, ntk, yarn, yarn-revised, llama3, dynamic; the nearest is yarn"),
        "{unknown}"
    );
    // the slowest of the four pairs turns within 36 positions: llama3 would touch none of them
    let fast = Rope { theta: 10.0, rotary_dim: 8, scaling: Scaling::None };
    let no_effect =
        for_training(&fast, ScalingKind::Llama3, 1 << 20, 1 << 19, None).expect_err("without effect");
    assert!(no_effect.to_string().contains("changes no frequency"), "{no_effect}");
}

#[test]
fn nonsense_is_refused_and_never_panics() {
    let check = |theta, rotary_dim, scaling| Rope { theta, rotary_dim, scaling }.check();
    assert!(check(f64::NAN, 64, Scaling::None).is_err());
    assert!(check(1.0, 64, Scaling::None).is_err());
    assert!(check(1e4, 0, Scaling::None).is_err());
    assert!(check(1e4, 63, Scaling::None).is_err());
    assert!(check(1e4, 2, Scaling::Ntk { factor: 2.0 }).is_err());
    assert!(check(1e4, 64, Scaling::Yarn(Yarn { beta_fast: 0.5, ..Yarn::new(4.0, 2048) })).is_err());
    assert!(
        check(1e4, 64, Scaling::Yarn(Yarn { attention_factor: Some(-1.0), ..Yarn::new(4.0, 2048) })).is_err()
    );
    assert!(check(1e4, 64, Scaling::Yarn(Yarn::new(4.0, 0))).is_err());
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 4.0, original: 8192 };
    assert!(check(1e4, 64, Scaling::Llama3(llama3)).is_err());
    let dynamic = |factor, original| Scaling::Dynamic(Dynamic { factor, original, length: 0 });
    assert!(
        check(1e4, 64, dynamic(1.0, 2048)).is_ok(),
        "of dynamic scalings 1 is one that changes something"
    );
    for (dim, scaling) in
        [(64, dynamic(0.9, 2048)), (64, dynamic(f64::NAN, 2048)), (64, dynamic(2.0, 0)), (2, dynamic(2.0, 9))]
    {
        assert!(check(1e4, dim, scaling).is_err());
    }
    let good = longrope();
    assert!(check(1e4, 8, Scaling::LongRope(good.clone())).is_ok());
    for bad in [
        LongRope { short_factor: vec![1.0; 3], ..good.clone() },
        LongRope { long_factor: vec![1.0, 2.0, f64::NAN, 4.0], ..good.clone() },
        LongRope { long_factor: vec![1.0, 2.0, 0.0, 4.0], ..good.clone() },
        LongRope { original: 1, ..good.clone() },
        LongRope { factor: f64::INFINITY, ..good.clone() },
        LongRope { attention_factor: Some(0.0), ..good.clone() },
        // nothing is changed at any length
        LongRope { short_factor: vec![1.0; 4], long_factor: vec![1.0; 4], factor: 1.0, ..good },
    ] {
        assert!(check(1e4, 8, Scaling::LongRope(bad.clone())).is_err(), "{bad:?}");
    }
}

fn longrope() -> LongRope {
    LongRope {
        short_factor: vec![1.0, 1.1, 1.2, 1.3],
        long_factor: vec![1.0, 2.0, 4.0, 8.0],
        original: 4096,
        factor: 32.0,
        attention_factor: None,
        length: 0,
    }
}

#[test]
fn a_request_has_one_list_by_its_whole_length() {
    let rope = Rope { theta: 1e4, rotary_dim: 8, scaling: Scaling::LongRope(longrope()) };
    let at = |length| rope.for_length(length).inverse_frequencies();
    assert_eq!(at(0), at(4096));
    assert_ne!(at(4096), at(4097));
    assert_eq!(at(4097), at(131_072));
    assert_eq!(rope.for_length(4096).attention_factor(), rope.for_length(131_072).attention_factor());
    // a model that has its factors is trained on with those of the target
    let trained = for_training(&rope, ScalingKind::None, 8192, 4096, None).unwrap();
    assert_eq!(trained.inverse_frequencies(), at(8192));
    assert!(for_training(&rope, ScalingKind::Yarn, 8192, 4096, None).is_err(), "scaled already");
    // what does not depend on the length is the same rotation for all
    let yarn = for_training(&base(), ScalingKind::Yarn, 16384, 2048, None).unwrap();
    assert_eq!(yarn.for_length(1 << 20), yarn);
}

#[test]
fn another_base_is_checked_against_what_its_length_needs() {
    // 2405.14591's bound, as round figures
    for (length, least) in [(1 << 14, 3.1e5), (1 << 15, 9.5e5), (1 << 16, 2.9e6), (1 << 17, 9.1e6)] {
        assert!((least_theta(length) / least - 1.0).abs() < 0.02, "{length}: {}", least_theta(length));
    }
    let changed = rebased(&base(), Some(1e6)).unwrap();
    assert_eq!(changed, Rope { theta: 1e6, ..base() });
    assert_eq!(rebased(&base(), None).unwrap(), base());
    let refused = |rope: &Rope, theta| rebased(rope, Some(theta)).unwrap_err().to_string();
    assert!(refused(&base(), 1e4).contains("changes nothing"));
    assert!(refused(&base(), 0.5).starts_with("--rope-theta 0.5: rope_theta 0.5 must be"));
    assert!(refused(&base(), f64::NAN).contains("must be a finite number"));
    let scaled = for_training(&base(), ScalingKind::Linear, 4096, 2048, None).unwrap();
    assert!(refused(&scaled, 1e6).contains("scaled already (\"linear\")"));
    // a scaling of the new base is that scaling of a model that was made with it
    let yarn = for_training(&changed, ScalingKind::Yarn, 16384, 2048, None).unwrap();
    assert_eq!(yarn.theta, 1e6);

    assert!(base_warning(&base(), 16384, 2048).unwrap().contains("least that a context of 16384 tokens"));
    assert_eq!(base_warning(&changed, 16384, 2048), None);
    assert!(base_warning(&changed, 1 << 16, 2048).is_some());
    assert_eq!(base_warning(&base(), 2048, 2048), None, "nothing is extended");
    assert_eq!(base_warning(&yarn, 1 << 20, 2048), None, "the bound is for a base alone");
    let ntk = for_training(&base(), ScalingKind::Ntk, 16384, 2048, None).unwrap();
    assert!(base_warning(&ntk, 16384, 2048).is_some(), "8^(64/62) times 10000 is not enough");

    assert_eq!(reach_warning(&yarn, 16384, 16384), None);
    let beyond = reach_warning(&yarn, 1 << 15, 16384).unwrap();
    assert!(
        beyond.contains("\"yarn\" by 8 was made for 16384 tokens") && beyond.contains("at least 16"),
        "{beyond}"
    );
    let dynamic = for_training(&base(), ScalingKind::Dynamic, 4096, 2048, None).unwrap();
    assert_eq!(reach_warning(&dynamic, 1 << 20, 2048), None, "it goes with the length");
    assert_eq!(reach_warning(&base(), 1 << 20, 2048), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every scaling keeps the order of pairs, turns none faster than plain RoPE, and none slower than interpolation does.
    #[test]
    fn scalings_lie_between_none_and_linear(
        theta in 1e3f64..1e7, half in 2usize..80, factor in 1.01f64..200.0, log_original in 8u32..18,
    ) {
        let (dim, original) = (2 * half, 1usize << log_original);
        let of = |scaling| Rope { theta, rotary_dim: dim, scaling }.inverse_frequencies();
        let (plain, linear) = (of(Scaling::None), of(Scaling::Linear { factor }));
        let llama3 = Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original };
        let yarn = of(Scaling::Yarn(Yarn::new(factor, original)));
        let revised = of(Scaling::YarnRevised(Yarn::new(factor, original)));
        let dynamic = Dynamic { factor: 1.0, original, length: (original as f64 * factor) as usize };
        for scaled in [&yarn, &revised, &of(Scaling::Ntk { factor }), &of(Scaling::Llama3(llama3)), &of(Scaling::Dynamic(dynamic))] {
            prop_assert_eq!(scaled.len(), half);
            for i in 0..half {
                prop_assert!(scaled[i] <= plain[i] * (1.0 + 1e-12) && scaled[i] >= linear[i] * (1.0 - 1e-12));
                prop_assert!(i == 0 || scaled[i] <= scaled[i - 1] * (1.0 + 1e-12));
            }
        }
        // wavelengths blended weigh the long one more than frequencies blended do
        prop_assert!(yarn.iter().zip(&revised).all(|(y, r)| *r <= y * (1.0 + 1e-12)));
    }

    #[test]
    fn phases_add_up(turns: u64, a in 0u32..1 << 30, b in 0u32..1 << 30) {
        let sum = phase(RopePosition(a), turns) + phase(RopePosition(b), turns);
        prop_assert!((sum.cos() - phase(RopePosition(a + b), turns).cos()).abs() < 1e-12);
    }
}
