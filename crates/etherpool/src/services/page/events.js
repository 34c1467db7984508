// What happened: of each pool what it remembers, then what is told as it happens. The stream ends with its supervisor, and
// is asked for anew; what a slow reader has lost the pools' histories have.

import { calendar, element } from './words.js';

const SHOWN_MAX = 200;
const AGAIN_MS = 3000;
/// An entry of a history and the event itself needn't have the same second.
const SAME_SECS = 3;

const pause = ms => new Promise(done => setTimeout(done, ms));

export class Events {
    constructor(get, list, told) {
        this.get = get;
        this.list = list;
        this.told = told;
        this.pools = [];
        this.newest = null;
        this.known = [];
        this.stopped = null;
    }

    /// Of these pools, as of the next beginning.
    of(pools) {
        this.pools = pools.filter(pool => pool.lease_ok).map(pool => pool.name);
    }

    start() {
        if (this.stopped) return;
        this.stopped = new AbortController();
        this.run(this.stopped.signal);
    }

    stop() {
        this.stopped?.abort();
        this.stopped = null;
    }

    async run(signal) {
        while (!signal.aborted) {
            try {
                await this.follow(signal);
                if (!signal.aborted) this.told.textContent = 'The supervisor has ended the stream of events; it is asked for anew.';
            } catch {
                if (!signal.aborted) this.told.textContent = 'Events aren’t told at the moment; they are asked for anew.';
            }
            await pause(AGAIN_MS);
        }
    }

    async follow(signal) {
        const response = await fetch('/v2/events', { signal, cache: 'no-store' });
        if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
        await this.remember();
        this.told.textContent = 'The newest first, as they happen.';
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = '';
        for (;;) {
            const { value, done } = await reader.read();
            if (done) return;
            const lines = (rest + value).split('\n');
            rest = lines.pop();
            for (const line of lines.filter(Boolean)) await this.take(JSON.parse(line));
        }
    }

    /// What the pools remember, instead of what is shown. Nobody is read all of that.
    async remember() {
        const asked = this.pools.map(pool => this.get(`/v2/pools/${pool}/history`).catch(() => []));
        const known = (await Promise.all(asked)).flat().sort((a, b) => a.at_secs - b.at_secs).slice(-SHOWN_MAX);
        this.known = known.map(entry => ({ at_secs: entry.at_secs, text: entry.text }));
        this.list.setAttribute('aria-live', 'off');
        this.list.replaceChildren();
        this.newest = null;
        for (const entry of known) this.add(entry, entry.who ? `${entry.who}: ${entry.text}: ${entry.result || ''}` : entry.text);
        this.list.setAttribute('aria-live', 'polite');
    }

    async take(event) {
        if (event.event === 'lost') return this.remember();
        const text = event.text || event.event || '';
        const isKnown = this.known.some(entry => entry.text === text && Math.abs(entry.at_secs - event.at_secs) <= SAME_SECS);
        if (!isKnown) this.add(event, text);
        return undefined;
    }

    /// What repeats is one entry with a count, as in the histories.
    add({ at_secs, severity, count }, text) {
        const times = (count || 1) + (this.newest?.text === text ? this.newest.times : 0);
        if (this.newest?.text === text) this.list.firstElementChild.remove();
        this.newest = { text, times };
        const at = element('time', { datetime: calendar(at_secs).replace(' ', 'T') + 'Z' }, calendar(at_secs));
        const level = { warning: 'warn', error: 'bad' }[severity] || 'off';
        const shown = times > 1 ? `${text} (${times} times)` : text;
        this.list.prepend(element('li', {}, at, element('span', { class: `state ${level}` }, shown)));
        while (this.list.children.length > SHOWN_MAX) this.list.lastElementChild.remove();
    }
}
