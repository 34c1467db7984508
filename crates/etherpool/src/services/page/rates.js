// How much is read and written, and how long that takes: what was counted between one look and the next. Five minutes of it
// are kept.

import { calendar, rate, time } from './words.js';
import { fill } from './tables.js';

const SHOWN_SECS = 300;
const POINTS_MAX = 150;
/// So many volumes are asked how long their requests take: those with the most to do.
const ASKED_MAX = 24;

/// What took how long: the mean, and what 99 of a hundred took less than. Buckets end at powers of two.
const times = (now, before) => {
    const counts = now.buckets.map((bucket, index) => bucket - before.buckets[index]);
    const all = counts.reduce((sum, bucket) => sum + bucket, 0);
    if (!(all > 0)) return { count: 0, sum: 0, mean: null, most: null };
    let seen = 0;
    const last = counts.findIndex(bucket => (seen += bucket) >= all * 0.99);
    const sum = now.sum_us - before.sum_us;
    return { count: all, sum, mean: sum / all, most: 2 ** last };
};

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const chart = (box, unit, shown, series) => {
    const axis = { stroke: () => css('--quiet'), grid: { stroke: () => css('--grid') }, ticks: { stroke: () => css('--grid') } };
    const values = { ...axis, size: 84, values: (_, ticks) => ticks.map(shown) };
    const drawn = new window.uPlot(
        {
            width: Math.max(200, box.clientWidth), height: 210, legend: { show: false }, cursor: { drag: { x: false, y: false } },
            scales: { x: { range: (_, min, max) => [(max ?? 0) - SHOWN_SECS, max ?? 0] }, y: { range: (_, min, max) => [0, Math.max(max, unit)] } },
            series: [{}, ...series.map(([colour, dash]) => ({ stroke: () => css(colour), width: 2, dash, spanGaps: false }))],
            axes: [{ ...axis, space: 80, values: (_, ticks) => ticks.map(tick => calendar(tick).slice(11)) }, values],
        },
        [[], ...series.map(() => [])],
        box,
    );
    new ResizeObserver(() => drawn.setSize({ width: Math.max(200, box.clientWidth), height: 210 })).observe(box);
    return drawn;
};

export class Rates {
    constructor(get) {
        this.get = get;
        this.before = new Map();
        this.points = [];
        this.table = document.getElementById('rates');
        this.boxes = ['chart-rates', 'chart-latencies'].map(id => document.getElementById(id));
        if (!window.uPlot) return;
        this.charts = [
            chart(this.boxes[0], 1000, rate, [['--read'], ['--write', [8, 5]], ['--copied', [2, 4]]]),
            chart(this.boxes[1], 100, time, [['--read'], ['--write', [8, 5]]]),
        ];
        window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.charts.forEach(drawn => drawn.redraw()));
    }

    /// After a pause nothing is known of what was between.
    forget() {
        this.before = new Map();
    }

    /// What was done since the look before; `at` in seconds.
    async look(pools, at) {
        const volumes = pools.filter(pool => pool.lease_ok).flatMap(pool => pool.volumes.map(volume => ({ pool, volume, name: `${pool.name}/${volume.name}` })));
        const counted = new Map();
        for (const { pool, volume, name } of volumes) {
            const { read_bytes: read, written_bytes: write, resynced_bytes: copied } = volume;
            counted.set(name, { id: `${pool.id} ${volume.id}`, at, read, write, copied, stats: null });
        }
        const done = new Map(volumes.map(({ name }) => [name, this.between(name, counted.get(name))]));
        const busiest = [...volumes].sort((a, b) => (done.get(b.name)?.all || 0) - (done.get(a.name)?.all || 0)).slice(0, ASKED_MAX);
        await Promise.all(
            busiest.map(async ({ pool, volume, name }) => {
                const stats = await this.get(`/v2/pools/${pool.name}/volumes/${volume.name}/stats`).catch(() => null);
                counted.get(name).stats = stats;
                const [entry, before] = [done.get(name), this.before.get(name)];
                if (!entry || !stats || !before?.stats || before.stats.began_ms !== stats.began_ms) return;
                for (const kind of ['read', 'write']) entry.times[kind] = times(stats[kind].total, before.stats[kind].total);
            }),
        );
        this.before = counted;
        this.show(volumes.map(({ name }) => [name, done.get(name)]), at);
    }

    /// None where it wasn't there before, or counting began anew.
    between(name, now) {
        const before = this.before.get(name);
        if (!before || before.id !== now.id || !(now.at > before.at)) return null;
        const secs = now.at - before.at;
        const [read, write, copied] = ['read', 'write', 'copied'].map(kind => (now[kind] - before[kind]) / secs);
        if (read < 0 || write < 0 || copied < 0) return null;
        return { read, write, copied, all: read + write, times: {} };
    }

    show(volumes, at) {
        const known = volumes.map(([, done]) => done).filter(Boolean);
        const sum = kind => (known.length > 0 ? known.reduce((all, done) => all + done[kind], 0) : null);
        const mean = kind => {
            const of = known.map(done => done.times[kind]).filter(Boolean);
            const requests = of.reduce((all, one) => all + one.count, 0);
            return requests > 0 ? of.reduce((all, one) => all + one.sum, 0) / requests : null;
        };
        const whole = { read: sum('read'), write: sum('write'), copied: sum('copied'), times: { read: { mean: mean('read') }, write: { mean: mean('write') } } };
        const heads = ['volume', 'read', 'write', 'mean read', '99% of reads', 'mean write', '99% of writes'];
        const shown = value => (value === null || value === undefined ? '-' : rate(value));
        const row = (name, done) => {
            const [read, write] = [done?.times.read, done?.times.write];
            const most = of => (of?.most ? `< ${time(of.most)}` : '-');
            return [name, shown(done?.read), shown(done?.write), time(read?.mean ?? null), most(read), time(write?.mean ?? null), most(write)];
        };
        fill(this.table, heads, [row('all', whole), ...volumes.map(([name, done]) => row(name, done))]);
        this.points.push([at, whole.read, whole.write, whole.copied, whole.times.read.mean, whole.times.write.mean]);
        if (this.points.length > POINTS_MAX) this.points.shift();
        this.draw(whole);
    }

    draw(whole) {
        const column = index => this.points.map(point => point[index]);
        const said = value => (value === null ? 'not known' : rate(value));
        this.boxes[0].setAttribute('aria-label', `Rates of the last five minutes; now read ${said(whole.read)}, written ${said(whole.write)}. The table has the numbers.`);
        this.boxes[1].setAttribute('aria-label', `Mean latencies of the last five minutes; now reads ${time(whole.times.read.mean)}, writes ${time(whole.times.write.mean)}. The table has the numbers.`);
        if (!this.charts) return;
        this.charts[0].setData([column(0), column(1), column(2), column(3)]);
        this.charts[1].setData([column(0), column(4), column(5)]);
    }
}
