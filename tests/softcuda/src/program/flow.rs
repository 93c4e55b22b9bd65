//! Where lanes that part at a branch meet again: the branch's immediate post-dominator.

use super::{Code, Instruction};

/// Sets `meet` of every branch. Works on single instructions: the post-dominators of Cooper, Harvey and Kennedy ("A simple,
/// fast dominance algorithm") over the reversed graph, whose root is one past the last instruction.
pub fn reconverge(code: &mut [Instruction]) {
    let end = code.len();
    let next = |i: usize| -> [Option<usize>; 2] {
        match code[i].code {
            Code::Branch { to } if code[i].guard.is_some() => [Some(i + 1), Some(to)],
            Code::Branch { to } => [Some(to), None],
            Code::Exit | Code::Trap if code[i].guard.is_none() => [Some(end), None],
            Code::Exit | Code::Trap => [Some(i + 1), Some(end)],
            _ => [Some(i + 1), None],
        }
    };
    let mut before = vec![Vec::new(); end + 1];
    for i in 0..end {
        for to in next(i).into_iter().flatten() {
            before[to.min(end)].push(i);
        }
    }
    let (order, place) = post_order(&before, end);
    let mut dominator = vec![usize::MAX; end + 1];
    dominator[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &i in order.iter().rev().filter(|i| **i != end) {
            let mut best = usize::MAX;
            for to in
                next(i).into_iter().flatten().map(|to| to.min(end)).filter(|to| dominator[*to] != usize::MAX)
            {
                best = if best == usize::MAX { to } else { meet(best, to, &dominator, &place) };
            }
            if best != usize::MAX && dominator[i] != best {
                dominator[i] = best;
                changed = true;
            }
        }
    }
    for (i, instruction) in code.iter_mut().enumerate() {
        instruction.meet = if dominator[i] == usize::MAX { end } else { dominator[i] };
    }
}

/// Nodes that reach the end, each after all that it leads to backwards, and the place of each in that order.
fn post_order(before: &[Vec<usize>], end: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut order, mut place) = (Vec::new(), vec![usize::MAX; end + 1]);
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((node, child)) = stack.pop() {
        match before[node].get(child) {
            Some(&to) => {
                stack.push((node, child + 1));
                if !seen[to] {
                    seen[to] = true;
                    stack.push((to, 0));
                }
            }
            None => {
                place[node] = order.len();
                order.push(node);
            }
        }
    }
    (order, place)
}

fn meet(mut a: usize, mut b: usize, dominator: &[usize], place: &[usize]) -> usize {
    while a != b {
        while place[a] < place[b] {
            a = dominator[a];
        }
        while place[b] < place[a] {
            b = dominator[b];
        }
    }
    a
}
