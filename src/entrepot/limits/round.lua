-- One round of one process with the store, atomic: for each limit, in the order of KEYS[3..]:
-- drain to now, pour what was used, take back what is given back, grant what is asked for and fits.
-- A limit is a hash: l level, a instant of it, u:NAME what a process used in the window, r:PID what a process holds
-- in bulk (leased, reserved, used and not yet reported). KEYS[1] holds the processes that are alive, by expiry, KEYS[2]
-- since when there is anything here: after a loss of everything no budget is granted until processes had time to tell.
-- Of a limit with a window each process tells all that it used in it, not what is new: the level is the sum of that.
-- Either every limit grants its least or none grants anything. Time is this server's, so no other clock matters.
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
local pid, name = ARGV[1], ARGV[2]
local born = tonumber(redis.call('GET', KEYS[2]))
if not born then
  born = now
  redis.call('SET', KEYS[2], string.format('%.0f', now))
end
local early = now >= born and now - born < ARGV[4] + 0
redis.call('ZADD', KEYS[1], now + ARGV[3], pid)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local alive, processes = {}, 0
for _, p in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do alive[p] = true; processes = processes + 1 end
local found, failed, waits = {}, 0, false
for i = 3, #KEYS do
  local at = 4 + (i - 3) * 13
  local amount, period, burst, window = ARGV[at+1]+0, ARGV[at+2]+0, ARGV[at+3]+0, ARGV[at+4]+0
  local used, back, keep = ARGV[at+5]+0, ARGV[at+6]+0, ARGV[at+7]+0
  local least, most, absolute = ARGV[at+8]+0, ARGV[at+9]+0, ARGV[at+10]+0
  local told, told_in, instead = ARGV[at+11]+0, ARGV[at+12]+0, ARGV[at+13]+0
  local level, since, others, mine, own, spent, before = 0, 0, 0, nil, 0, 0, -1
  local fields = redis.call('HGETALL', KEYS[i])
  for f = 1, #fields, 2 do
    local field, value = fields[f], fields[f+1] + 0
    if field == 'l' then level = value
    elseif field == 'a' then since = value
    elseif field == 'r:' .. pid then mine = value
    elseif field == 'u:' .. name then own = value
    elseif string.sub(field, 1, 2) == 'u:' then spent = spent + value
    elseif string.sub(field, 1, 2) == 'r:' then
      if alive[string.sub(field, 3)] then others = others + value else redis.call('HDEL', KEYS[i], field) end
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
        if string.sub(fields[f], 1, 2) == 'u:' then redis.call('HDEL', KEYS[i], fields[f]) end
      end
    elseif told_in == current then
      before = own
    end
    if told_in == current then own = instead == 1 and told or math.max(own, told) end
    level = (spent + own) * period
  end
  since = math.max(since, now)
  if mine == nil or absolute == 1 then mine = keep else mine = mine - used - back end
  local held, granted = others + mine, 0
  local room = math.floor((burst * period - level) / period) - held
  if early and window > 0 then waits = waits or least > 0
  elseif room >= least then granted = math.max(0, math.min(most, room))
  elseif least > 0 and level == 0 and held == 0 and least <= amount then granted = least
  elseif least > 0 and failed == 0 then failed = i - 2 end
  found[i] = {granted, level, held, since, mine, own, window, amount, least, before}
end
if failed == 0 and waits then failed = -1 end
local out = {failed, processes, string.format('%.0f', born)}
for i = 3, #KEYS do
  local f = found[i]
  if failed ~= 0 and f[9] > 0 then f[1] = 0 end
  local set = {'l', string.format('%.0f', f[2]), 'a', string.format('%.0f', f[4]),
               'r:' .. pid, string.format('%.0f', f[5] + f[1])}
  if f[7] > 0 then set[7] = 'u:' .. name; set[8] = string.format('%.0f', f[6]) end
  redis.call('HSET', KEYS[i], unpack(set))
  local ttl = 600000
  if f[7] > 0 then ttl = f[7] + DAY elseif f[8] > 0 then ttl = ttl + math.ceil(f[2] / f[8]) end
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', ttl))
  out[#out+1] = string.format('%.0f', f[1])
  out[#out+1] = string.format('%.0f', f[2])
  out[#out+1] = string.format('%.0f', f[3] + f[1])
  out[#out+1] = string.format('%.0f', f[10])
end
return out
