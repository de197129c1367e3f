// Verifies with the official library: one delivery in each line of its input, one verdict in each
// line of its output. One process does all of them, because starting Node costs more than they do.
"use strict";

const readline = require("node:readline");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

function verdict({ secret, headers, body }) {
    try {
        const text = Buffer.from(body, "base64").toString("utf8");
        return { event: new Webhook(secret).verify(text, headers) };
    } catch (error) {
        // Any other error is no refusal but a defect, and has to end the process.
        if (!(error instanceof WebhookVerificationError)) throw error;
        return { refused: error.message };
    }
}

readline
    .createInterface({ input: process.stdin })
    .on("line", (line) => console.log(JSON.stringify(verdict(JSON.parse(line)))));
