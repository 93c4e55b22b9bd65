//! `mma`, `wmma`, `ldmatrix`, `stmatrix` (PTX ISA 9.0, sections 9.7.14 and 9.7.15).

use super::Names;
use crate::program::tensor::{Element, Fragment, Part, Product, Shape};
use crate::program::{Area, Code};
use crate::ptx::Operand;

impl Names {
    pub(super) fn matrix(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let has = |name: &str| words[1..].contains(&name);
        match (words[0], *words.get(1)?) {
            ("ldmatrix" | "stmatrix", _) if !has("m8n8") || !words.ends_with(&["b16"]) => None,
            ("ldmatrix", _) => Some(Code::LoadMatrix {
                to: self.vector(o.first()?)?.into_iter().collect::<Option<Vec<_>>>()?,
                place: self.place(Area::Shared, o.get(1)?)?,
                transposed: has("trans"),
            }),
            ("stmatrix", _) => Some(Code::StoreMatrix {
                from: self.sources(o.get(1)?)?,
                place: self.place(Area::Shared, o.first()?)?,
                transposed: has("trans"),
            }),
            ("wmma", "load" | "store") => self.fragment_access(words, o),
            _ => self.mma(words, o).or_else(|| self.product(words, o)),
        }
    }

    /// The shape that most kernels use has a path of its own.
    fn mma(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let types = words.ends_with(&["row", "col", "f32", "bf16", "bf16", "f32"])
            || words.ends_with(&["row", "col", "f32", "f16", "f16", "f32"]);
        if words[0] != "mma" || words.get(3) != Some(&"m16n8k16") || !types {
            return None;
        }
        let d: Vec<u32> = self.vector(o.first()?)?.into_iter().collect::<Option<_>>()?;
        let (a, c) = (self.four(o.get(1)?)?, self.four(o.get(3)?)?);
        let b = self.sources(o.get(2)?)?.try_into().ok()?;
        Some(Code::Mma { half: words.contains(&"f16"), d: d.try_into().ok()?, a, b, c })
    }

    fn product(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let known = |w: &&str| {
            let plain = ["mma", "wmma", "sync", "aligned", "row", "col", "satfinite", "rn"];
            plain.contains(w) || Shape::named(w).is_some() || Element::named(w).is_some()
        };
        if !words.iter().all(known) {
            return None;
        }
        let shape = words.iter().find_map(|w| Shape::named(w))?;
        let types: Vec<Element> = words.iter().filter_map(|w| Element::named(w)).collect();
        let (a, b, c, d) = match types[..] {
            [d, a, b, c] => (a, b, c, d),
            // `wmma` of f16 says only what d and c are
            [d, c] if words[0] == "wmma" => (Element::F16, Element::F16, c, d),
            _ => return None,
        };
        if words[0] == "mma" && !words.windows(2).any(|w| w == ["row", "col"])
            || !supported(words[0], shape, a)
        {
            return None;
        }
        let product = Product { shape, elements: [a, b, c, d], saturate: words.contains(&"satfinite") };
        let to: Vec<u32> = self.vector(o.first()?)?.into_iter().collect::<Option<_>>()?;
        let from = [self.sources(o.get(1)?)?, self.sources(o.get(2)?)?, self.sources(o.get(3)?)?];
        let counts = [from[0].len(), from[1].len(), from[2].len(), to.len()];
        (0..4)
            .all(|i| counts[i].is_multiple_of(product.fragment(i).registers().max(1)))
            .then_some(Code::Product { product, to, from })
    }

    fn fragment_access(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let part = match *words.get(2)? {
            "a" => Part::A,
            "b" => Part::B,
            "c" | "d" => Part::C,
            _ => return None,
        };
        let element = Element::named(words.last()?)?;
        let shape = words.iter().find_map(|w| Shape::named(w))?;
        let fragment = Fragment { part, shape, element };
        if element.bits() < 8 || !matches!((shape.m, shape.n), (16, 16) | (32, 8) | (8, 32) | (8, 8)) {
            return None;
        }
        let by_column = words.contains(&"col");
        let (rows, columns) = fragment.size();
        let stride = match o.get(2) {
            Some(stride) => self.src(stride)?,
            None => crate::program::Src::Num(if by_column { rows } else { columns } as u64),
        };
        let area = self.area(words);
        if words.get(1) == Some(&"store") {
            let (from, place) = (self.sources(o.get(1)?)?, self.place(area, o.first()?)?);
            return Some(Code::StoreFragment { fragment, from, place, stride, by_column });
        }
        let to: Vec<u32> = self.vector(o.first()?)?.into_iter().collect::<Option<_>>()?;
        if !to.len().is_multiple_of(fragment.registers()) {
            return None;
        }
        Some(Code::LoadFragment { fragment, to, place: self.place(area, o.get(1)?)?, stride, by_column })
    }
}

/// The shapes that the ISA has for elements of `a`.
fn supported(op: &str, Shape { m, n, k }: Shape, a: Element) -> bool {
    let shapes: &[(usize, usize, usize)] = match (op, a) {
        ("mma", Element::F16 | Element::Bf16) => &[(16, 8, 8), (16, 8, 16)],
        ("mma", Element::Tf32) => &[(16, 8, 4), (16, 8, 8)],
        ("mma", Element::S8 | Element::U8) => &[(8, 8, 16), (16, 8, 16), (16, 8, 32)],
        ("mma", Element::S4 | Element::U4) => &[(8, 8, 32), (16, 8, 32), (16, 8, 64)],
        ("mma", Element::F64) => &[(8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)],
        ("wmma", Element::Tf32) => &[(16, 16, 8)],
        ("wmma", Element::F64) => &[(8, 8, 4)],
        ("wmma", Element::F16 | Element::Bf16 | Element::S8 | Element::U8) => {
            &[(16, 16, 16), (32, 8, 16), (8, 32, 16)]
        }
        _ => &[],
    };
    shapes.contains(&(m, n, k))
}
