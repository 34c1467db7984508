// The picture of what depends on what. It is drawn anew only where it is another one, and what had the focus or was picked
// then has it again. One stop of Tab leads into it, arrow keys from one thing to the next.

import { count, say, setClass } from './words.js';
import { LAYERS, drawn } from './model.js';

const SVG = 'http://www.w3.org/2000/svg';
const [COLUMN, WIDTH, HEIGHT, ROW, TOP] = [206, 166, 26, 34, 34];
const LETTERS_MAX = 18;
const ONE = { machines: 'machine', disks: 'disk', pools: 'pool', volumes: 'volume', uses: 'use' };
const HEADS = { machines: 'Machines', disks: 'Disks', pools: 'Pools', volumes: 'Volumes', uses: 'Used as' };
/// A shape for each level, around 0.
const MARKS = { well: 'M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0', warn: 'M0 -6L6.5 5.5H-6.5Z', bad: 'M-5 -5H5V5H-5Z', off: 'M0 -5.5L5.5 0L0 5.5L-5.5 0Z' };

const part = (name, fields, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(fields)) made.setAttribute(key, value);
    made.append(...children);
    return made;
};

/// What tells names apart is mostly at their ends.
const shortened = text => {
    const letters = [...text];
    return letters.length > LETTERS_MAX ? `${letters.slice(0, 7).join('')}…${letters.slice(8 - LETTERS_MAX).join('')}` : text;
};

const nameOf = node => (node.count > 1 ? node.label : `${ONE[node.layer]} ${node.label}`);

/// All that is reached over edges of one direction, itself left out.
const reached = (from, edges) => {
    const found = new Set();
    const ahead = [from];
    while (ahead.length > 0) {
        for (const key of edges.get(ahead.pop()) || []) {
            if (!found.has(key)) {
                found.add(key);
                ahead.push(key);
            }
        }
    }
    return found;
};

export class Picture {
    constructor(box, told) {
        this.box = box;
        this.told = told;
        this.shown = '';
        this.current = null;
        this.picked = null;
        box.addEventListener('click', event => this.pick(this.keyAt(event.target)));
        box.addEventListener('keydown', event => this.press(event));
        box.addEventListener('focusin', event => this.enter(event.target));
    }

    show(model) {
        const columns = drawn(model);
        const shown = JSON.stringify(columns);
        if (shown === this.shown) return;
        this.shown = shown;
        this.columns = columns;
        this.nodes = new Map(columns.flat().map(node => [node.key, node]));
        this.above = new Map([...this.nodes.values()].map(node => [node.key, node.needs]));
        this.below = new Map();
        for (const node of this.nodes.values()) {
            for (const key of node.needs) this.below.set(key, [...(this.below.get(key) || []), node.key]);
        }
        if (!this.nodes.has(this.current)) this.current = columns.flat().length > 0 ? columns.flat()[0].key : null;
        if (!this.nodes.has(this.picked)) this.picked = null;
        this.draw();
        this.mark();
    }

    draw() {
        const hadFocus = this.box.contains(document.activeElement) && document.activeElement !== this.box;
        const rows = Math.max(1, ...this.columns.map(column => column.length));
        const [width, height] = [COLUMN * LAYERS.length - (COLUMN - WIDTH) + 24, TOP + rows * ROW + 8];
        const at = new Map();
        this.columns.forEach((column, x) => {
            const top = TOP + ((rows - column.length) * ROW) / 2;
            column.forEach((node, y) => at.set(node.key, { x: 12 + x * COLUMN, y: top + y * ROW }));
        });
        const label = LAYERS.map((layer, x) => count(this.columns[x].reduce((sum, node) => sum + node.count, 0), ONE[layer])).join(', ');
        const svg = part('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `What depends on what: ${label}` });
        LAYERS.forEach((layer, x) => svg.append(part('text', { class: 'column', x: 12 + x * COLUMN, y: 20, 'aria-hidden': 'true' }, HEADS[layer])));
        this.edges = [];
        for (const node of this.nodes.values()) {
            for (const key of node.needs) {
                const [from, to] = [at.get(key), at.get(node.key)];
                const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
                const middle = (x1 + x2) / 2;
                const path = part('path', { class: 'edge', d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`, 'aria-hidden': 'true' });
                this.edges.push({ from: key, to: node.key, path });
                svg.append(path);
            }
        }
        this.drawn = new Map();
        for (const node of this.nodes.values()) {
            const { x, y } = at.get(node.key);
            const why = node.why ? `: ${node.why}` : '';
            const group = part(
                'g',
                { transform: `translate(${x} ${y})`, role: 'button', 'aria-label': `${nameOf(node)}, ${node.word}${why}`, 'data-key': node.key },
                part('title', {}, `${nameOf(node)}, ${node.word}${why}`),
                part('rect', { width: WIDTH, height: HEIGHT, rx: 4 }),
                part('path', { class: 'mark', d: MARKS[node.level], transform: `translate(14 ${HEIGHT / 2})` }),
                part('text', { x: 28, y: 18 }, shortened(node.label)),
            );
            this.drawn.set(node.key, group);
            svg.append(group);
        }
        this.box.replaceChildren(svg);
        if (hadFocus && this.current) this.drawn.get(this.current).focus();
    }

    mark() {
        const [below, above] = this.picked ? [reached(this.picked, this.below), reached(this.picked, this.above)] : [new Set(), new Set()];
        setClass(this.box.firstElementChild, this.picked ? 'picked' : '');
        for (const [key, group] of this.drawn) {
            const role = key === this.picked ? 'self' : below.has(key) ? 'hangs' : above.has(key) ? 'needed' : '';
            setClass(group, `node ${this.nodes.get(key).level} ${role}`.trim());
            group.setAttribute('tabindex', key === this.current ? 0 : -1);
            group.setAttribute('aria-pressed', key === this.picked);
        }
        const isOf = (set, key) => key === this.picked || set.has(key);
        for (const { from, to, path } of this.edges) {
            const hangs = isOf(below, from) && below.has(to);
            const needed = above.has(from) && isOf(above, to);
            setClass(path, hangs ? 'edge hangs' : needed ? 'edge needed' : 'edge');
        }
        say(this.told, this.picked ? `${nameOf(this.nodes.get(this.picked))}: ${this.sum(below)} on it; it needs ${this.sum(above, true)}.` : '');
    }

    /// How many of each layer, in words.
    sum(keys, plain) {
        const counts = new Map();
        for (const key of keys) {
            const node = this.nodes.get(key);
            counts.set(node.layer, (counts.get(node.layer) || 0) + node.count);
        }
        const words = LAYERS.filter(layer => counts.has(layer)).map(layer => count(counts.get(layer), ONE[layer]));
        if (words.length === 0) return plain ? 'nothing' : 'nothing hangs';
        const all = [...counts.values()].reduce((sum, number) => sum + number, 0);
        return words.join(', ') + (plain ? '' : all === 1 ? ' hangs' : ' hang');
    }

    keyAt(target) {
        const group = target.closest && target.closest('[data-key]');
        return group ? group.dataset.key : null;
    }

    pick(key) {
        if (!this.nodes) return;
        this.picked = key === this.picked ? null : key;
        if (key) this.current = key;
        this.mark();
        if (key) this.drawn.get(key).focus();
    }

    enter(target) {
        const key = this.keyAt(target);
        if (!key || key === this.current) return;
        this.drawn.get(this.current)?.setAttribute('tabindex', -1);
        this.drawn.get(key).setAttribute('tabindex', 0);
        this.current = key;
    }

    press(event) {
        const key = this.keyAt(event.target);
        if (event.key === 'Escape') return this.pick(null);
        if (!key) return;
        if (event.key === 'Enter' || event.key === ' ') {
            event.preventDefault();
            return this.pick(key);
        }
        const next = this.next(key, event.key);
        if (!next) return;
        event.preventDefault();
        this.drawn.get(next).focus();
    }

    /// Where an arrow leads: to the neighbour of the same kind, or to the first that is needed or that hangs on it.
    next(key, arrow) {
        const column = this.columns.find(nodes => nodes.some(node => node.key === key));
        const at = column.findIndex(node => node.key === key);
        const beside = index => column[index] && column[index].key;
        switch (arrow) {
            case 'ArrowDown': return beside(at + 1);
            case 'ArrowUp': return beside(at - 1);
            case 'ArrowRight': return (this.below.get(key) || [])[0];
            case 'ArrowLeft': return (this.above.get(key) || [])[0];
            case 'Home': return beside(0);
            case 'End': return beside(column.length - 1);
            default: return null;
        }
    }
}
