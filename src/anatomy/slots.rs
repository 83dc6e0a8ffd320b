//! Places in a layer that no name filled, and the tensors that fit them.
//!
//! A place fits tensors of its shape in its number. Where several equal places and as many groups of names are left,
//! vectors are paired in the order of their names; matrices stay undecided, since a wrong guess would turn the roles of
//! query and output round.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use super::names::{Group, Reading};
use super::shapes::Shapes;
use super::{Assignment, Renamed, Source};
use crate::model::blueprint::{Layers, Slot, blueprint};
use crate::model::naming::{self, Scheme};
use crate::model::{Role, Touch};
use crate::tensor::TensorMeta;

/// An open place: its role and how many tensors it still takes.
#[derive(Debug, Clone, Copy)]
struct Open {
    role: Role,
    room: u64,
    inside: bool,
}

/// Gives roles to the tensors that have none, by shape and number. Returns the roles that only the order of names
/// settled.
pub(super) fn fill(
    tensors: &[TensorMeta],
    groups: &[Group],
    shapes: &Shapes,
    assignments: &mut [Assignment],
) -> Vec<Role> {
    let mut taken: HashMap<Role, u64> = HashMap::new();
    for assignment in assignments.iter() {
        if let [role] = assignment.roles[..] {
            *taken.entry(role).or_default() += 1;
        }
    }
    let mut open: HashMap<&[u64], Vec<Open>> = HashMap::new();
    let slots = blueprint(&shapes.architecture);
    for Slot { role, shape, layers, .. } in &slots {
        let all = slots.iter().filter(|slot| slot.role == *role).map(|slot| slot.tensors(&shapes.architecture));
        let room = all.sum::<u64>().saturating_sub(taken.get(role).copied().unwrap_or(0));
        if room > 0 {
            open.entry(shape).or_default().push(Open { role: *role, room, inside: *layers != Layers::Outside });
        }
    }
    let positions: Vec<Option<usize>> = groups.iter().map(Group::layer_position).collect();
    // What fits no place is something else, unless it is a buffer.
    let constants = |shape: &Vec<u64>| {
        let known = shapes.roles.get(shape).filter(|roles| roles.iter().all(|role| role.is_constant()));
        known.cloned().unwrap_or_default()
    };
    let mut ordered = Vec::new();
    for (shape, parts) in leftovers(tensors, groups, assignments) {
        let none = Vec::new();
        let decided = decide(open.get(shape.as_slice()).unwrap_or(&none), &parts, groups);
        for (part, (roles, by_order)) in parts.iter().zip(decided) {
            if by_order {
                ordered.extend(roles.iter().copied());
            }
            let roles = if roles.is_empty() { constants(&shape) } else { roles };
            give(part, &groups[part.group], positions[part.group], &roles, assignments);
        }
    }
    ordered
}

/// Tensors of one group that have one shape and no role yet.
struct SlotPart {
    group: usize,
    members: Vec<usize>,
}

fn leftovers(
    tensors: &[TensorMeta],
    groups: &[Group],
    assignments: &[Assignment],
) -> BTreeMap<Vec<u64>, Vec<SlotPart>> {
    let mut parts: BTreeMap<Vec<u64>, Vec<SlotPart>> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        for (index, member) in group.members.iter().enumerate() {
            let assignment = &assignments[member.tensor];
            if assignment.by.is_some() {
                continue;
            }
            let of_shape = parts.entry(tensors[member.tensor].shape.clone()).or_default();
            match of_shape.last_mut().filter(|part| part.group == at) {
                Some(part) => part.members.push(index),
                None => of_shape.push(SlotPart { group: at, members: vec![index] }),
            }
        }
    }
    parts
}

/// The roles of each part, and whether order alone told them apart.
fn decide(open: &[Open], parts: &[SlotPart], groups: &[Group]) -> Vec<(Vec<Role>, bool)> {
    let all: Vec<Role> = open.iter().map(|open| open.role).collect();
    let mut decided = vec![(all, false); parts.len()];
    if open.len() < 2 {
        return decided;
    }
    let mut classes: BTreeMap<(u64, bool, bool), Vec<usize>> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        let key = &groups[part.group].key;
        let bias = key.ends_with("bias") || key.ends_with("beta");
        classes.entry((part.members.len() as u64, key.contains('#'), bias)).or_default().push(at);
    }
    for ((n, inside, bias), mut members) in classes {
        let named: Vec<Open> = open.iter().filter(|open| is_bias(open.role) == bias).copied().collect();
        let fits = |open: &&Open| open.room == n && open.inside == inside;
        let exact: Vec<Role> = named.iter().filter(fits).map(|open| open.role).collect();
        let roomy: Vec<Role> = named.iter().filter(|open| open.room >= n).map(|open| open.role).collect();
        let vectors = exact.iter().all(|role| matches!(role.touch(), Touch::Gain | Touch::Bias));
        if exact.len() == members.len() && (vectors || exact.len() == 1) {
            members.sort_by(|a, b| {
                let (a, b) = (parts[*a].group, parts[*b].group);
                natural(&groups[a].key, &groups[b].key).then(a.cmp(&b))
            });
            for (member, role) in members.into_iter().zip(&exact) {
                decided[member] = (vec![*role], exact.len() > 1);
            }
        } else {
            let roles = if exact.len() >= members.len() { exact } else { roomy };
            for member in members.into_iter().filter(|_| !roles.is_empty()) {
                decided[member] = (roles.clone(), false);
            }
        }
    }
    decided
}

fn is_bias(role: Role) -> bool {
    role.as_str().ends_with("_bias")
}

/// Compares names so that `ln2` comes before `ln10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
            let ((m, rest_a), (n, rest_b)) = (a.split_at(digits(a)), b.split_at(digits(b)));
            let bare = |s: &[u8]| s.iter().skip_while(|c| **c == b'0').copied().collect::<Vec<u8>>();
            let (m, n) = (bare(m), bare(n));
            match m.len().cmp(&n.len()).then_with(|| m.cmp(&n)) {
                Ordering::Equal => (a, b) = (rest_a, rest_b),
                other => return other,
            }
        } else if x == y {
            (a, b) = (&a[1..], &b[1..]);
        } else {
            return x.cmp(y);
        }
    }
    a.len().cmp(&b.len())
}

fn give(part: &SlotPart, group: &Group, position: Option<usize>, roles: &[Role], assignments: &mut [Assignment]) {
    let inside = roles.is_empty() || roles.iter().any(|role| role.in_layer());
    for &index in &part.members {
        let member = &group.members[index];
        let assignment = &mut assignments[member.tensor];
        assignment.layer = position.filter(|_| inside).and_then(|at| member.numbers.get(at).copied());
        assignment.by = (!roles.is_empty()).then_some(Source::Shapes);
        assignment.roles = roles.to_vec();
    }
}

/// The names that differ from the scheme `standard`, with the names that it has for their roles.
pub(super) fn renamed(
    groups: &[Group],
    assignments: &[Assignment],
    standard: &Scheme,
    reading: Option<Reading>,
) -> Vec<Renamed> {
    let prefix = reading.map_or("", |reading| naming::prefixes()[reading.prefix].as_str());
    // A file of the bare decoder is held against the standard's names without their outer module.
    let own = reading.is_some_and(|reading| naming::schemes()[reading.scheme].id == standard.id);
    let mut rows = Vec::new();
    for group in groups {
        let mut counts: BTreeMap<(Role, bool), usize> = BTreeMap::new();
        for member in &group.members {
            let assignment = &assignments[member.tensor];
            if let [role] = assignment.roles[..]
                && !role.is_constant()
                && !(own && assignment.by == Some(Source::Names))
            {
                *counts.entry((role, assignment.expert.is_some())).or_default() += 1;
            }
        }
        let pattern = group.pattern();
        for ((role, expert), count) in counts {
            let fits = |pattern: &str| pattern.contains("{expert}") == expert;
            let mut candidates = standard.tensors.iter().filter(|row| row.role == role);
            let Some(row) = candidates.clone().find(|row| fits(&row.pattern)).or_else(|| candidates.next()) else {
                continue;
            };
            let canonical = format!("{prefix}{}", row.pattern);
            if canonical != pattern {
                rows.push(Renamed { found: pattern.clone(), canonical, role, count });
            }
        }
    }
    rows.sort_by(|a, b| a.role.cmp(&b.role).then_with(|| a.found.cmp(&b.found)));
    rows
}
