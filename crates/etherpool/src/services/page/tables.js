// Tables, which are changed only where what they say is another thing than before: whoever reads them isn't interrupted,
// and nothing is made anew every two seconds.

import { calendar, element, entries, poolSurvives, say, setClass, size, spoken, stateOf, volumeSurvives } from './words.js';

const NUMBERS = new Set(['size', 'free', 'to catch up', 'bad blocks', 'disks', 'volumes', 'missing', 'read', 'write', 'left', 'mean read', 'mean write', '99% of reads', '99% of writes']);

const state = (text, level, why) => ({ text: why ? `${text}: ${why}` : text, level });

/// Shows rows of texts, and of `{ text, level }`, below heads; the first of a row is its head.
export const fill = (table, heads, rows) => {
    if (!table.tHead) {
        const row = element('tr', {}, ...heads.map(head => element('th', { scope: 'col', class: NUMBERS.has(head) ? 'number' : null }, head)));
        table.append(element('thead', {}, row), element('tbody'));
    }
    const make = () => {
        const cells = heads.map((head, index) => {
            const fields = index === 0 ? { scope: 'row' } : { class: NUMBERS.has(head) ? 'number' : null };
            return element(index === 0 ? 'th' : 'td', fields, element('span'));
        });
        return element('tr', {}, ...cells);
    };
    entries(table.tBodies[0], rows.length, make).forEach((row, index) => {
        rows[index].forEach((cell, column) => {
            const whole = typeof cell === 'object' ? cell : { text: cell };
            const span = row.children[column].firstElementChild;
            say(span, whole.text);
            setClass(span, whole.level ? `state ${whole.level}` : '');
            if (whole.meter || row.children[column].children.length > 1) meter(row.children[column], whole.meter);
        });
    });
};

const meter = (cell, done) => {
    let bar = cell.querySelector('progress');
    if (!done) {
        if (bar) bar.remove();
        return;
    }
    if (!bar) {
        bar = element('progress', { max: 100 });
        cell.prepend(bar, ' ');
    }
    bar.setAttribute('aria-label', done.label);
    if (bar.value !== done.percent) bar.value = done.percent;
};

const machineRow = machine => {
    const pools = [...new Set(machine.disks.map(disk => disk.pool).filter(Boolean))];
    return [machine.label, state(machine.word, machine.level), String(machine.disks.length), String(machine.missing), pools.join(', ') || '-'];
};

const diskRow = now => disk => {
    const health = disk.health && disk.health.state !== 'good' ? `${disk.health.state}: ${disk.health.reason || ''}` : disk.health ? 'good' : '-';
    const seen = disk.word === 'missing' && disk.seen ? `last seen ${spoken(now - disk.seen)} ago` : '';
    return [
        disk.label, state(disk.word, disk.level, disk.why || seen), disk.machine, disk.device || '-', disk.pool || '-', size(disk.size),
        size(disk.dirty), String(disk.errors), health,
    ];
};

const poolRow = ({ report, word, why, level }) => [
    report.name, state(word, level, why), poolSurvives(report), size(report.capacity_bytes),
    size(report.spare ? report.spare.left_bytes : report.free_bytes), String(report.disks.length), String(report.volumes.length),
    `${report.votes.present} of ${report.votes.total}`,
];

const volumeRow = ({ label, word, why, level, report, uses }) => [
    label, state(word, level, why), volumeSurvives(report), size(report.size_bytes),
    report.converting_to ? `${report.layout} to ${report.converting_to}` : report.layout, size(report.dirty_bytes),
    uses.map(use => (use.word === 'on' ? use.label : `${use.label} (${use.word})`)).join(', ') || '-',
];

const byId = id => document.getElementById(id);

export const showTables = (model, now) => {
    fill(byId('machines'), ['machine', 'state', 'disks', 'missing', 'pools'], model.machines.map(machineRow));
    const ofDisks = ['disk', 'state', 'machine', 'device', 'pool', 'size', 'to catch up', 'bad blocks', 'health'];
    fill(byId('disks'), ofDisks, model.disks.map(diskRow(now)));
    fill(byId('pools'), ['pool', 'state', 'survives', 'size', 'free', 'disks', 'volumes', 'votes in reach'], model.pools.map(poolRow));
    fill(byId('volumes'), ['volume', 'state', 'survives', 'size', 'layout', 'to catch up', 'used as'], model.volumes.map(volumeRow));
};

/// For how long what a job has left is remembered, to tell how fast it goes.
const JOB_SECS = 60;
const seen = new Map();

const leftOf = (key, now, left) => {
    const points = (seen.get(key) || []).filter(point => now - point.now <= JOB_SECS);
    points.push({ now, left });
    seen.set(key, points);
    const secs = now - points[0].now;
    const moved = points[0].left - left;
    return secs > 0 && moved > 0 ? spoken((left / moved) * secs) : '-';
};

/// The disks of a pool that get what they missed. No job that could be cancelled, and how much is done isn't known.
const resyncs = pool => pool.disks.filter(disk => disk.dirty_bytes > 0 && stateOf(disk).word === 'usable')
    .map(disk => ({ number: `resync ${disk.id}`, kind: 'resync', disk: disk.name, left_bytes: disk.dirty_bytes, state: 'running' }));

export const showJobs = (pools, now) => {
    const rows = [];
    const keys = new Set();
    for (const pool of pools) {
        for (const job of [...pool.jobs, ...resyncs(pool)]) {
            const key = `${pool.id} ${job.number}`;
            keys.add(key);
            const { word, why } = stateOf(job);
            const percent = job.left_bytes === 0 ? 100 : Math.min(99, Math.floor(((job.total_bytes - job.left_bytes) * 100) / Math.max(1, job.total_bytes)));
            const what = `${job.kind}${job.disk || job.volume ? ` of ${job.disk || job.volume}` : ''}${job.to ? ` to ${job.to}` : ''}`;
            const done = job.kind === 'resync' ? '-' : { text: `${percent}%`, meter: { percent, label: what } };
            rows.push([
                `${pool.name}: ${what}`, state(word, word === 'waiting' ? 'warn' : 'well', why), done, size(job.left_bytes), leftOf(key, now, job.left_bytes),
            ]);
        }
    }
    for (const key of [...seen.keys()].filter(key => !keys.has(key))) seen.delete(key);
    byId('no-jobs').hidden = rows.length > 0;
    byId('jobs').hidden = rows.length === 0;
    fill(byId('jobs'), ['job', 'state', 'done', 'left', 'time left'], rows);
};

/// What is wrong, in the order and words of `etherpool status`.
export const showWrong = status => {
    const make = () => element('li', {}, element('h2'), element('dl', {}, ...['since', 'data', 'do'].flatMap(name => [element('dt', {}, name), element('dd')])));
    entries(byId('wrong'), status.wrong.length, make).forEach((item, index) => {
        const one = status.wrong[index];
        setClass(item, one.severity === 'error' ? 'bad' : 'warn');
        say(item.querySelector('h2'), `${one.severity}: ${one.text}`);
        const passes = one.may_pass ? '; it may pass by itself' : '';
        const since = `${calendar(one.since_secs)} UTC, for ${spoken(status.at_secs - one.since_secs)}${passes}`;
        const [sinceAt, dataAt, doAt] = item.querySelectorAll('dd');
        say(sinceAt, since);
        say(dataAt, one.data);
        say(doAt, one.remedy);
    });
};

/// Entries of a list, each a text.
export const showList = (list, texts) => {
    entries(list, texts.length, () => element('li')).forEach((item, index) => say(item, texts[index]));
};
