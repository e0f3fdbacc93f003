"""What happens to a job in Redis, each step one script: either all of it has happened or nothing.

Keys, below a prefix (KEYS[1]): job:ID a hash (client, model, request and metadata as JSON, state, times, figures);
answer:ID its answer, written once; lease:ID who runs it, for so long as that one says so; the sorted sets pending
(not ended), waiting (not begun), jobs and jobs:CLIENT (all), by the time of arrival, and ended (ID:CLIENT), by the time
of the end; bytes, of all requests that are pending. Times are Redis' own clock, s since the epoch, for all machines.
"""

from __future__ import annotations

NOW = """
local t = redis.call('TIME')
local now = string.format('%d.%06d', t[1], t[2])
local P, id = KEYS[1], ARGV[1]
local job = P .. 'job:' .. id
"""

FORGET = """
local function forget(id, client)
  redis.call('DEL', P .. 'job:' .. id, P .. 'answer:' .. id, P .. 'lease:' .. id)
  for _, key in ipairs({'pending', 'waiting', 'jobs', 'jobs:' .. client}) do redis.call('ZREM', P .. key, id) end
end
"""

SUBMIT = (
    NOW
    + """
if redis.call('ZCARD', P .. 'pending') >= tonumber(ARGV[6]) then return {'jobs'} end
local held = tonumber(redis.call('GET', P .. 'bytes') or '0')
if held > 0 and held + #ARGV[4] > tonumber(ARGV[7]) then return {'bytes'} end
redis.call('HSET', job, 'client', ARGV[2], 'model', ARGV[3], 'request', ARGV[4], 'metadata', ARGV[5],
           'keep', ARGV[8], 'priority', ARGV[9], 'drawn', ARGV[10], 'state', 'queued', 'created', now)
for _, key in ipairs({'pending', 'waiting', 'jobs', 'jobs:' .. ARGV[2]}) do redis.call('ZADD', P .. key, now, id) end
redis.call('INCRBY', P .. 'bytes', #ARGV[4])
return {'', now}
"""
)
"""id, client, model, request, metadata, most jobs, most bytes, s to keep, priority,
1 where the seed was drawn here -> ('' or what is full, when)"""

WITHDRAW = (
    NOW
    + FORGET
    + """
local client = redis.call('HGET', job, 'client')
if not client then return 0 end
redis.call('DECRBY', P .. 'bytes', redis.call('HSTRLEN', job, 'request'))
forget(id, client)
return 1
"""
)
"""id: as if it had never been submitted."""

BEGIN = (
    NOW
    + """
local state = redis.call('HGET', job, 'state')
if not state then return {'gone'} end
if state ~= 'queued' and state ~= 'running' then return {'ended'} end
local lease = P .. 'lease:' .. id
if not redis.call('SET', lease, ARGV[2], 'NX', 'PX', ARGV[3]) then return {'held'} end
redis.call('ZREM', P .. 'waiting', id)
redis.call('HSETNX', job, 'started', now)
redis.call('HSET', job, 'state', 'running')
local deliveries = redis.call('HINCRBY', job, 'deliveries', 1)
local found = redis.call('HMGET', job, 'request', 'client', 'created', 'drawn')
return {'run', found[1], found[2], found[3], deliveries, now, found[4] or ''}
"""
)
"""id, token, lease in ms -> gone | ended | held (by who runs it) | run and request, client, created,
deliveries, now, 1 where its seed was drawn"""

BEAT = (
    NOW
    + """
local lease = P .. 'lease:' .. id
if redis.call('GET', lease) == ARGV[2] then redis.call('PEXPIRE', lease, ARGV[3]) end
if ARGV[5] ~= '' then redis.call('ZADD', ARGV[4], 'XX', ARGV[6], ARGV[5]) end
return redis.call('HGET', job, 'state') or 'gone'
"""
)
"""id, token, lease in ms, the broker's index of messages not acknowledged, this one's tag, now -> state.

Renews the lease and the time from which the message's visibility timeout counts."""

RELEASE = (
    NOW
    + """
if redis.call('GET', P .. 'lease:' .. id) ~= ARGV[2] then return 0 end
redis.call('DEL', P .. 'lease:' .. id)
if redis.call('HGET', job, 'state') ~= 'running' then return 0 end
redis.call('HSET', job, 'state', 'queued')
redis.call('HINCRBY', job, 'deliveries', -1)
redis.call('ZADD', P .. 'waiting', redis.call('HGET', job, 'created'), id)
return 1
"""
)
"""id, token: its runner stops before it has ended, and whoever gets it next begins it again."""

ATTEMPT = (
    NOW
    + """
if redis.call('EXISTS', job) == 0 then return 0 end
return redis.call('HINCRBY', job, 'attempts', 1)
"""
)
"""id -> how many attempts have failed by now"""

END = (
    NOW
    + FORGET
    + """
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
local client, keep = redis.call('HGET', job, 'client'), tonumber(redis.call('HGET', job, 'keep'))
if ARGV[4] ~= '' and not redis.call('SET', P .. 'answer:' .. id, ARGV[4], 'NX', 'EX', keep) then return 0 end
redis.call('DECRBY', P .. 'bytes', redis.call('HSTRLEN', job, 'request'))
redis.call('HDEL', job, 'request')
redis.call('HSET', job, 'state', ARGV[2], 'error', ARGV[3], 'figures', ARGV[5], 'ended', now)
redis.call('EXPIRE', job, keep)
redis.call('DEL', P .. 'lease:' .. id)
if ARGV[7] ~= '' then
  redis.call('HDEL', ARGV[8], ARGV[7])
  redis.call('ZREM', ARGV[9], ARGV[7])
end
redis.call('ZREM', P .. 'pending', id)
redis.call('ZREM', P .. 'waiting', id)
redis.call('ZADD', P .. 'ended', now, id .. ':' .. client)
local old = redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', now - keep, 'LIMIT', 0, 100)
local over = redis.call('ZCARD', P .. 'ended') - tonumber(ARGV[6])
if #old == 0 and over > 0 then old = redis.call('ZRANGE', P .. 'ended', 0, math.min(over, 100) - 1) end
for _, member in ipairs(old) do
  local split = string.find(member, ':', 1, true)
  forget(string.sub(member, 1, split - 1), string.sub(member, split + 1))
  redis.call('ZREM', P .. 'ended', member)
end
return 1
"""
)
"""id, state, error, answer or '', figures, most ended jobs to keep, tag of its message or '', the broker's messages
that are not acknowledged and their index -> whether this ended it: the first end counts. Acknowledges the message."""
