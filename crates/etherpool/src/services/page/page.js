// The page: asks every two seconds while somebody looks, and shows the answers. It changes nothing, and goes nowhere but to
// the supervisor that it is from.

import { calendar, poolSurvives, say, setClass, volumeSurvives } from './words.js';
import { modelOf } from './model.js';
import { showJobs, showList, showTables, showWrong } from './tables.js';
import { Picture } from './picture.js';
import { Rates } from './rates.js';
import { Events } from './events.js';

const LOOK_MS = 2000;
const ANSWER_MS = 15000;
const LIST_MAX = 30;

const byId = id => document.getElementById(id);

const get = async path => {
    const response = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS), cache: 'no-store' });
    if (!response.ok) {
        const error = await response.json().catch(() => ({}));
        throw new Error(error.message || `it answered with ${response.status}`);
    }
    return response.json();
};

const picture = new Picture(byId('picture'), byId('picked'));
const rates = new Rates(get);
const events = new Events(get, byId('events'), byId('events-state'));
let heard = null;
let lostAt = null;

const headlineOf = wrong => {
    if (wrong.length === 0) return 'all is well';
    return wrong.length === 1 ? 'one thing is wrong' : `${wrong.length} things are wrong`;
};

const showHeadline = (text, level, host) => {
    say(byId('headline'), text);
    setClass(byId('headline'), `state ${level}`);
    const title = `${text} - ${host || 'etherpool'}`;
    if (document.title !== title) document.title = title;
};

/// Of each pool how many failures it survives, and which of its volumes don't survive any one.
const survivesOf = pools => {
    const texts = [];
    for (const pool of pools.filter(pool => poolSurvives(pool) !== '-')) {
        texts.push(`pool ${pool.name} survives ${poolSurvives(pool)}`);
        const few = pool.volumes.filter(volume => !volume.survives_disks || !volume.survives_nodes);
        texts.push(...few.map(volume => `volume ${pool.name}/${volume.name} survives the loss of ${volumeSurvives(volume)}`));
    }
    return texts.length > LIST_MAX ? [...texts.slice(0, LIST_MAX), 'and so on: the table of volumes has all'] : texts;
};

const show = (status, present) => {
    const wrong = status.wrong || [];
    const level = wrong.length === 0 ? 'well' : wrong.some(one => one.severity === 'error') ? 'bad' : 'warn';
    showHeadline(headlineOf(wrong), level, status.host);
    say(byId('host'), `on ${status.host}, version ${status.version}`);
    say(byId('as-of'), `As of ${calendar(status.at_secs)} UTC`);
    showWrong({ ...status, wrong });
    showList(byId('survives'), survivesOf(status.pools));
    const warnings = [...status.warnings, ...((status.engine && status.engine.warnings) || [])];
    byId('warnings-box').hidden = warnings.length === 0;
    showList(byId('warnings'), warnings);
    const model = modelOf(status, present);
    picture.show(model);
    showTables(model, status.at_secs);
    showJobs(status.pools, status.at_secs);
};

const found = () => {
    lostAt = null;
    byId('lost').hidden = true;
    setClass(document.documentElement, '');
};

/// That nobody answers is said once, and by the browser's clock: there is no other.
const lost = error => {
    if (lostAt !== null) return;
    lostAt = Date.now() / 1000;
    const why = error.name === 'TimeoutError' ? 'it takes too long' : error.message;
    const shown = heard ? ` What stands below was so at ${calendar(heard)} UTC.` : '';
    say(byId('lost'), `The supervisor doesn’t answer since ${calendar(lostAt)} UTC (${why}). It is asked again and again.${shown}`);
    byId('lost').hidden = false;
    setClass(document.documentElement, 'stale');
    showHeadline('not known: the supervisor doesn’t answer', 'bad', null);
    rates.forget();
};

const look = async () => {
    const disks = get('/v2/disks').catch(() => []);
    let status = null;
    try {
        status = await get('/v2/status');
    } catch (error) {
        lost(error);
        return;
    }
    const at = Date.now() / 1000;
    found();
    heard = status.at_secs;
    show(status, await disks);
    events.of(status.pools);
    events.start();
    await rates.look(status.pools, at);
};

let turn = 0;

/// Looks again and again, until another turn has begun: when nobody looks any more, and when somebody does again.
const run = async mine => {
    while (mine === turn) {
        try {
            await look();
        } catch (error) {
            showHeadline(`this page can’t show what the supervisor says: ${error.message}`, 'bad', null);
            console.error(error);
        }
        await new Promise(done => setTimeout(done, LOOK_MS));
    }
};

const begin = () => {
    turn += 1;
    if (document.visibilityState === 'visible') {
        run(turn);
        return;
    }
    events.stop();
    rates.forget();
};

document.addEventListener('visibilitychange', begin);
begin();
