-- Sends a fixed number of invoices with ids of their own and ends wrk once all are answered.
-- Arguments after "--": result file, prefix of the ids, number of invoices, paths to take turns.

local ffi = require("ffi")
ffi.cdef([[
    typedef struct { long seconds; long micros; } instant;
    int gettimeofday(instant *at, void *zone);
]])

local result, run, count, paths
local begun, sent, answered, refused, first_at = 0, 0, 0, 0, nil

local function now()
    local at = ffi.new("instant")
    ffi.C.gettimeofday(at, nil)
    return tonumber(at.seconds) + tonumber(at.micros) / 1e6
end

function init(arguments)
    result, run, count = arguments[1], arguments[2], tonumber(arguments[3])
    paths = {}
    for index = 4, #arguments do
        paths[#paths + 1] = arguments[index]
    end
    wrk.headers["Content-Type"] = "application/json"
end

-- Asked once before each request: those beyond the number are put off for ever.
function delay()
    begun = begun + 1
    return begun > count and 1e9 or 0
end

function request()
    sent = sent + 1
    local body = string.format(
        '{"id": "%s-%d", "title": "Expensive invoice", "customer": "Mr. Richie Rich", "total": "9999"}',
        run, sent
    )
    return wrk.format("POST", paths[sent % #paths + 1], nil, body)
end

function response(status)
    answered = answered + 1
    first_at = first_at or now()
    if status ~= 202 then
        refused = refused + 1
    end
    if answered == count then
        local file = io.open(result, "w")
        file:write(string.format(
            '{"first_at": %.6f, "last_at": %.6f, "refused_count": %d}', first_at, now(), refused
        ))
        file:close()
        os.exit(0)
    end
end
