// Verifies with the official library: one delivery in each line of its input, one result in each
// line of its output. One process does all of them, because the start of Node takes longer.
"use strict";

const readline = require("node:readline");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

function verify({ secret, headers, body }) {
    try {
        const text = Buffer.from(body, "base64").toString("utf8");
        return { event: new Webhook(secret).verify(text, headers) };
    } catch (error) {
        // Any other error is a defect and must end the process.
        if (!(error instanceof WebhookVerificationError)) throw error;
        return { refused: error.message };
    }
}

readline
    .createInterface({ input: process.stdin })
    .on("line", (line) => console.log(JSON.stringify(verify(JSON.parse(line)))));
