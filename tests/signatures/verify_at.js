// Verifies the vectors with the official library: one vector in each line of its input, and in each
// line of its output whether it was accepted.
"use strict";

const readline = require("node:readline");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

function isAccepted({ secret, headers, body_hex, now }) {
    Date.now = () => now * 1000;
    try {
        new Webhook(secret).verify(Buffer.from(body_hex, "hex").toString("utf8"), headers);
        return true;
    } catch (error) {
        // Any other error is a defect and must end the process.
        if (!(error instanceof WebhookVerificationError)) throw error;
        return false;
    }
}

readline
    .createInterface({ input: process.stdin })
    .on("line", (line) => console.log(JSON.stringify(isAccepted(JSON.parse(line)))));
