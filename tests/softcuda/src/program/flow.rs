//! Where lanes that part at a branch meet again: the branch's immediate post-dominator.

use super::{Code, Instruction};

/// Sets `meet` of every branch. Works on single instructions: the post-dominators of Cooper, Harvey and Kennedy ("A simple,
/// fast dominance algorithm") over the reversed graph, whose root is one past the last instruction.
pub fn reconverge(code: &mut [Instruction]) {
    let end = code.len();
    let next: Vec<Vec<usize>> = (0..end).map(|i| successors(code, i)).collect();
    let mut before = vec![Vec::new(); end + 1];
    for (i, next) in next.iter().enumerate() {
        next.iter().for_each(|to| before[*to].push(i));
    }
    let (order, place) = post_order(&before, end);
    let mut dominator = vec![usize::MAX; end + 1];
    dominator[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &i in order.iter().rev().filter(|i| **i != end) {
            let mut best = usize::MAX;
            for &to in next[i].iter().filter(|to| dominator[**to] != usize::MAX) {
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

/// Where lanes may be after an instruction; one past the last is the end.
fn successors(code: &[Instruction], i: usize) -> Vec<usize> {
    let end = code.len();
    let mut out = match &code[i].code {
        Code::Branch { to } => vec![*to],
        Code::BranchTable { targets, .. } => targets.clone(),
        Code::Exit | Code::Return | Code::Trap => vec![end],
        _ => return vec![i + 1],
    };
    if code[i].guard.is_some() {
        out.insert(0, i + 1);
    }
    out.iter_mut().for_each(|to| *to = (*to).min(end));
    out
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
