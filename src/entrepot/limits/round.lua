-- One round of one process with the store, atomic. For each limit, in the order of KEYS[5..]: drain to now, pour what was
-- used, take back what is given back. Then the calls that wait, one after the other: each gets all that it needs of its
-- limits, or nothing. Then each limit fills its lease with what is left, unless a call found too little of it.
-- A limit is a hash: l level, a instant of it, u:NAME what a process used in the window, r:PID what a process holds
-- in bulk (leased, reserved, used and not yet reported). KEYS[1] holds the processes that are alive, by expiry, KEYS[2]
-- since when there is anything here: after a loss of everything no budget is granted until processes had time to tell,
-- or all have told (KEYS[3]) that were alive before by the word of any (KEYS[4]; `knew` is of one that has told all).
-- Of a limit with a window each process tells all that it used in it, not what is new: the level is the sum of that.
-- Time is this server's, so no other clock matters. ARGV[1] and the answer are MessagePack, for whoever asks is slower.
local DAY, MONTH = 86400000, 31 * 86400000
local function window_of(w, at)
  if w ~= MONTH then return math.floor(at / w) end
  local day = math.floor(at / DAY) + 719468
  local era = math.floor(day / 146097)
  day = day - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * day + 2) / 153)
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local pid, name, alive_ms, grace_ms, knew, limits, calls = unpack(cmsgpack.unpack(ARGV[1]))
local born = tonumber(redis.call('GET', KEYS[2]))
if not born then
  born = now
  redis.call('SET', KEYS[2], string.format('%.0f', now))
  redis.call('DEL', KEYS[3], KEYS[4])
end
local early = now >= born and now - born < grace_ms
if early and #knew > 0 then
  redis.call('SADD', KEYS[3], pid)
  redis.call('SADD', KEYS[4], unpack(knew))
  redis.call('PEXPIRE', KEYS[3], 10 * grace_ms)
  redis.call('PEXPIRE', KEYS[4], 10 * grace_ms)
end
early = early and (redis.call('EXISTS', KEYS[4]) == 0 or #redis.call('SDIFF', KEYS[4], KEYS[3]) > 0)
redis.call('ZADD', KEYS[1], now + alive_ms, pid)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local processes, alive = redis.call('ZRANGE', KEYS[1], 0, -1), {}
for _, p in ipairs(processes) do alive[p] = true end
local found = {}
for i, asked in ipairs(limits) do
  local amount, period, burst, window, used, back, keep, most, absolute, told, told_in, instead = unpack(asked)
  local key, level, since, others, mine, own, spent, before = KEYS[i + 4], 0, 0, 0, nil, 0, 0, -1
  local fields = redis.call('HGETALL', key)
  for f = 1, #fields, 2 do
    local field, value = fields[f], fields[f+1] + 0
    if field == 'l' then level = value
    elseif field == 'a' then since = value
    elseif field == 'r:' .. pid then mine = value
    elseif field == 'u:' .. name then own = value
    elseif string.sub(field, 1, 2) == 'u:' then spent = spent + value
    elseif string.sub(field, 1, 2) == 'r:' then
      if alive[string.sub(field, 3)] then others = others + value else redis.call('HDEL', key, field) end
    end
  end
  if window == 0 then
    if now > since then level = math.max(0, level - (now - since) * amount) end
    level = level + used * period
  else
    local current = window_of(window, now)
    if #fields > 0 and current > window_of(window, since) then
      own, spent = 0, 0
      for f = 1, #fields, 2 do
        if string.sub(fields[f], 1, 2) == 'u:' then redis.call('HDEL', key, fields[f]) end
      end
    elseif told_in == current then
      before = own
    end
    if told_in == current then own = instead == 1 and told or math.max(own, told) end
    level = (spent + own) * period
  end
  if mine == nil or absolute == 1 then mine = keep else mine = mine - used - back end
  local held = others + mine
  found[i] = {
    key = key, amount = amount, window = window, level = level, since = math.max(since, now), mine = mine, own = own,
    others = others, held = held, room = math.floor((burst * period - level) / period) - held, before = before, most = most,
    waits = early and window > 0,
  }
end
local answers = {}
for c, needs in ipairs(calls) do
  local failed, waits = 0, false
  for n = 1, #needs, 2 do
    local f, units = found[needs[n]], needs[n+1]
    if f.waits then waits = true
    elseif f.room < units and not (f.level == 0 and f.held == 0 and units <= f.amount) then
      f.most = 0
      if failed == 0 then failed = (n + 1) / 2 end
    end
  end
  if failed == 0 and waits then failed = -1 end
  if failed == 0 then
    for n = 1, #needs, 2 do
      local f, units = found[needs[n]], needs[n+1]
      f.room, f.held, f.mine = f.room - units, f.held + units, f.mine + units
    end
  end
  answers[c] = failed
end
local out = {}
for i, f in ipairs(found) do
  local granted = f.waits and 0 or math.max(0, math.min(f.most, f.room))
  local set = {'l', string.format('%.0f', f.level), 'a', string.format('%.0f', f.since),
               'r:' .. pid, string.format('%.0f', f.mine + granted)}
  if f.window > 0 then set[7] = 'u:' .. name; set[8] = string.format('%.0f', f.own) end
  redis.call('HSET', f.key, unpack(set))
  local ttl = 600000
  if f.window > 0 then ttl = f.window + DAY elseif f.amount > 0 then ttl = ttl + math.ceil(f.level / f.amount) end
  redis.call('PEXPIRE', f.key, string.format('%.0f', ttl))
  out[i] = {granted, f.level, f.others, f.before}
end
return cmsgpack.pack({processes, born, out, answers})
