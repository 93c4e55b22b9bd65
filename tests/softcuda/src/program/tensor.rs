//! Matrix instructions: what `mma` and `wmma` multiply, and which element of a matrix each register of each lane holds (PTX ISA
//! 9.0, sections 9.7.14 and 9.7.15).

/// What a matrix is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S8,
    U8,
    S4,
    U4,
    S32,
}

impl Element {
    pub fn named(name: &str) -> Option<Element> {
        Some(match name {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            "f32" => Element::F32,
            "f64" => Element::F64,
            "s8" => Element::S8,
            "u8" => Element::U8,
            "s4" => Element::S4,
            "u4" => Element::U4,
            "s32" => Element::S32,
            _ => return None,
        })
    }

    pub fn bits(self) -> usize {
        match self {
            Element::S4 | Element::U4 => 4,
            Element::S8 | Element::U8 => 8,
            Element::F16 | Element::Bf16 => 16,
            Element::Tf32 | Element::F32 | Element::S32 => 32,
            Element::F64 => 64,
        }
    }

    /// Elements in one register.
    pub fn packed(self) -> usize {
        (32 / self.bits()).max(1)
    }

    pub fn integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8 | Element::S4 | Element::U4 | Element::S32)
    }
}

/// a is m by k, b k by n, c and d m by n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

impl Shape {
    /// Of a word such as `m16n8k16`.
    pub fn named(word: &str) -> Option<Shape> {
        let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some(Shape { m: m.parse().ok()?, n: n.parse().ok()?, k: k.parse().ok()? })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    A,
    B,
    /// c and d.
    C,
}

/// One operand of a shape: where its elements lie.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub part: Part,
    pub shape: Shape,
    pub element: Element,
}

impl Fragment {
    /// Rows and columns of the matrix.
    pub fn size(&self) -> (usize, usize) {
        let Shape { m, n, k } = self.shape;
        match self.part {
            Part::A => (m, k),
            Part::B => (k, n),
            Part::C => (m, n),
        }
    }

    /// Registers that hold different elements. `wmma` of f16 has more for a and b; those repeat the first.
    pub fn registers(&self) -> usize {
        let (rows, columns) = self.size();
        rows * columns / 32 / self.element.packed()
    }

    /// Row and column of element `e` of register `r` of a lane.
    ///
    /// One rule gives the fragments that the ISA draws for every `mma` of 8 or 16 rows and 8 columns. Those of `wmma` are not
    /// told: they are put together of such blocks, m8n32 as m32n8 with rows and columns exchanged.
    pub fn place(&self, lane: usize, r: usize, e: usize) -> (usize, usize) {
        let wide = self.shape.m == 8 && self.shape.n == 32;
        match (self.part, wide) {
            (Part::A, false) => self.left(self.shape.m, lane, r, e),
            (Part::A, true) => swap(self.right(lane, r, e)),
            (Part::B, false) => self.right(lane, r, e),
            (Part::B, true) => swap(self.left(32, lane, r, e)),
            (Part::C, false) => self.sum(self.shape.m, lane, r, e),
            (Part::C, true) => swap(self.sum(32, lane, r, e)),
        }
    }

    fn left(&self, rows: usize, lane: usize, r: usize, e: usize) -> (usize, usize) {
        let (group, thread, packed) = (lane / 4, lane % 4, self.element.packed());
        if rows == 8 {
            return (group, packed * thread + e + 4 * packed * r);
        }
        let of_block = 2 * self.shape.k / (4 * packed);
        let (block, r) = (r / of_block, r % of_block);
        (16 * block + group + 8 * (r % 2), packed * thread + e + 4 * packed * (r / 2))
    }

    fn right(&self, lane: usize, r: usize, e: usize) -> (usize, usize) {
        let (group, thread, packed) = (lane / 4, lane % 4, self.element.packed());
        let of_block = self.shape.k / (4 * packed);
        let (block, r) = (r / of_block, r % of_block);
        (packed * thread + e + 4 * packed * r, 8 * block + group)
    }

    fn sum(&self, rows: usize, lane: usize, r: usize, e: usize) -> (usize, usize) {
        let (group, packed) = (lane / 4, self.element.packed());
        let i = packed * r + e;
        let (block, i) = (i / 4, i % 4);
        let (row, column) = (group + 8 * (i / 2), lane % 4 * 2 + i % 2);
        if rows == 32 { (row + 16 * block, column) } else { (row, column + 8 * block) }
    }
}

fn swap((a, b): (usize, usize)) -> (usize, usize) {
    (b, a)
}

/// d = a·b + c.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub shape: Shape,
    /// Of a, b, c, d.
    pub elements: [Element; 4],
    /// Integer sums stop at the ends of their range.
    pub saturate: bool,
}

impl Product {
    pub fn fragment(&self, i: usize) -> Fragment {
        let part = [Part::A, Part::B, Part::C, Part::C][i];
        Fragment { part, shape: self.shape, element: self.elements[i] }
    }
}
