// What depends on what, from the reports: machines have disks, disks are pools', pools have volumes, and volumes are used.
// Each layer is a list of things with a key, and the keys of those in the layer before that they need.

import { levelOf, stateOf, worst } from './words.js';

export const LAYERS = ['machines', 'disks', 'pools', 'volumes', 'uses'];

const UNNAMED = '(no name)';

const diskLevel = (word, health) => {
    const level = levelOf(word);
    return health && health.state !== 'good' && level === 'well' ? 'warn' : level;
};

const disksOf = (status, present) => {
    const left = new Map(present.map(disk => [disk.name, disk]));
    const all = [];
    for (const pool of status.pools) {
        for (const disk of pool.disks) {
            const { word, why } = stateOf(disk);
            // Where it is missing another one may be at its address by now; one of the same pool that is used was there a moment ago.
            const same = left.get(disk.name);
            if (same && (word !== 'missing' || (same.pool === pool.name && stateOf(same).word !== 'refused'))) left.delete(disk.name);
            const health = disk.health || (same && same.health);
            all.push({
                key: `disk ${pool.id} ${disk.id}`, label: disk.name || disk.id, machine: disk.node || UNNAMED, pool: pool.name,
                poolKey: `pool ${pool.id}`, word, why: why || disk.rebuild_waits || '', level: diskLevel(word, health), health,
                device: disk.device_name, size: disk.size_bytes, dirty: disk.dirty_bytes, errors: disk.checksum_errors,
                votes: disk.holds_vote, seen: disk.last_seen_secs,
            });
        }
    }
    for (const disk of left.values()) {
        const { word, why } = stateOf(disk);
        all.push({
            key: `disk ${disk.name}`, label: disk.name, machine: disk.node || UNNAMED, pool: disk.pool || '', poolKey: null, word,
            why, level: diskLevel(word, disk.health), health: disk.health, device: disk.device_name, size: disk.size_bytes, dirty: 0,
            errors: 0, votes: false, seen: disk.last_seen_secs,
        });
    }
    const order = (a, b) => a.machine.localeCompare(b.machine, 'en', { numeric: true }) || a.label.localeCompare(b.label, 'en', { numeric: true });
    return all.sort(order);
};

const machinesOf = disks => {
    const machines = new Map();
    for (const disk of disks) {
        const machine = machines.get(disk.machine) || { key: `machine ${disk.machine}`, label: disk.machine, disks: [] };
        machine.disks.push(disk);
        machines.set(disk.machine, machine);
    }
    return [...machines.values()].map(machine => {
        const missing = machine.disks.filter(disk => disk.word === 'missing').length;
        const unwell = machine.disks.filter(disk => ['warn', 'bad'].includes(disk.level)).length;
        const gone = missing === machine.disks.length;
        const level = gone ? 'bad' : unwell > 0 ? 'warn' : worst(machine.disks.map(disk => disk.level));
        const word = gone ? 'no disk answers' : missing > 0 ? 'disks missing' : unwell > 0 ? 'disks not well' : 'answers';
        return { ...machine, missing, unwell, level, word, needs: [] };
    });
};

const usesOf = (volume, service) => {
    const uses = [];
    const add = (kind, text, word) => uses.push({ key: `use ${volume} ${kind} ${text}`, label: `${kind} ${text}`, word, level: levelOf(word), why: service.trouble || '' });
    if (service.mount !== 'off' && service.mount_path) add('mount', service.mount_path, service.mount);
    else if (service.device) add('device', service.device, 'on');
    if (service.ftp !== 'off' && service.ftp_listen) add('ftp', service.ftp_listen, service.ftp);
    for (const address of service.exports || []) add('aoe', address, 'on');
    return uses;
};

/// All layers.
export const modelOf = (status, present) => {
    const disks = disksOf(status, present || []);
    const services = new Map(status.services.map(service => [service.volume, service]));
    const model = { machines: machinesOf(disks), disks, pools: [], volumes: [], uses: [] };
    for (const disk of disks) disk.needs = [`machine ${disk.machine}`];
    for (const pool of status.pools) {
        const { word, why } = stateOf(pool);
        const key = `pool ${pool.id}`;
        const needs = disks.filter(disk => disk.poolKey === key).map(disk => disk.key);
        model.pools.push({ key, label: pool.name, word, why, level: levelOf(word), needs, report: pool });
        for (const volume of pool.volumes) {
            const name = `${pool.name}/${volume.name}`;
            const volumeKey = `volume ${pool.id} ${volume.id}`;
            const state = stateOf(volume);
            const uses = services.has(name) ? usesOf(name, services.get(name)) : [];
            model.volumes.push({ key: volumeKey, label: name, ...state, level: levelOf(state.word), needs: [key], report: volume, pool, uses });
            for (const use of uses) model.uses.push({ ...use, needs: [volumeKey] });
        }
    }
    return model;
};

/// How many of a layer stand for themselves, before those that are alike stand together.
const ALONE_MAX = { machines: 30, disks: 48, pools: 24, volumes: 40, uses: 40 };

/// The layers as they are drawn. Where there are many, those that are alike are one: disks by their machines, of the
/// others those that are well.
export const drawn = model => {
    const place = new Map();
    const poolsOf = new Map();
    for (const disk of model.disks) poolsOf.set(`machine ${disk.machine}`, new Set([...(poolsOf.get(`machine ${disk.machine}`) || []), disk.pool]));
    return LAYERS.map(layer => {
        const max = ALONE_MAX[layer];
        const nodes = new Map();
        let alone = 0;
        for (const thing of model[layer]) {
            const needs = [...new Set(thing.needs.map(key => place.get(key)).filter(Boolean))];
            const stands = model[layer].length <= max || (layer !== 'disks' && ['warn', 'bad'].includes(thing.level) && alone++ < max);
            const pools = layer === 'machines' ? [...poolsOf.get(thing.key)].sort() : thing.poolKey || '';
            const key = stands ? thing.key : `many ${JSON.stringify([layer, thing.word, thing.level, needs, pools])}`;
            const node = nodes.get(key) || { key, layer, of: [], needs };
            node.of.push(thing);
            nodes.set(key, node);
            place.set(thing.key, key);
        }
        return [...nodes.values()].map(({ key, needs, of }) => {
            const [{ level, word, label, why }, one] = [of[0], of.length === 1];
            return { key, layer, needs, count: of.length, level, word, label: one ? label : `${of.length} ${layer}`, why: (one && why) || '' };
        });
    });
};
