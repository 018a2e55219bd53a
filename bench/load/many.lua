-- wrk … -s many.lua URL -- BODY_FILE ACCOUNTS: posts the body for a random deployment of a random account, with a random one of
-- its two keys, as `scale.py` names them; prints one line of JSON at the end, times in µs.
local accounts, rest
local keys = { "-1-0123456789abcdef", "-2-0123456789abcdef" }

function init(args)
   local file = assert(io.open(args[1], "rb"))
   rest = file:read("*a"):match('^{"model": "[^"]*"(.*)$')
   file:close()
   accounts = tonumber(args[2])
   math.randomseed(tonumber(args[3]))
end

function request()
   local account = math.random(0, accounts - 1)
   local model = math.random() < 0.5 and "gpt-4o" or "own-" .. account
   local body = '{"model": "' .. model .. '"' .. rest
   return "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer sk-bench-" .. account
      .. keys[math.random(2)] .. "\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
      .. "User-Agent: bench/1.0\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      'json: {"calls": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.status + e.connect + e.read + e.write + e.timeout))
end
