//! What is lost together.

use super::*;

impl Cluster {
    /// What fails as a whole: the disks of each machine, or each disk, with all that share a label with some of these.
    pub fn failure_units(&self, labels: &BTreeMap<Place, Labels>) -> Vec<Vec<Place>> {
        let places = |number: usize| {
            let slots = self.node(number).disks().len();
            (0..slots).map(|slot| (number, slot)).collect::<Vec<Place>>()
        };
        let machines = (0..self.node_count()).map(places);
        let units: Vec<Vec<Place>> = match self.plan.failure_domain {
            FailureDomain::Node => machines.collect(),
            FailureDomain::Disk => machines.flatten().map(|place| vec![place]).collect(),
        };
        let words = |unit: &[Place]| -> BTreeSet<(LabelKind, LabelValue)> {
            unit.iter().filter_map(|place| labels.get(place).cloned()).flatten().collect()
        };
        let mut joined: Vec<Vec<Place>> = Vec::new();
        for mut unit in units {
            // What it is joined with may have joined nobody yet that others of it share something with.
            let (with, apart) = joined
                .into_iter()
                .partition::<Vec<_>, _>(|other| !words(other).is_disjoint(&words(&unit)));
            joined = apart;
            unit.splice(0..0, with.into_iter().flatten());
            joined.push(unit);
        }
        joined
    }
}
