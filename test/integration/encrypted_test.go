package integration

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// messages is how many each side sends in a conversation.
const messages = 100

// converse sends messages both ways at the same time and waits until each was
// decrypted on the other side.
func converse(t *testing.T, what string, n int, room id.RoomID, a, b *client) {
	t.Helper()
	say := func(c *client) (texts []string, failed chan error) {
		failed = make(chan error, 1)
		for i := range n {
			texts = append(texts, fmt.Sprintf("%s: %s says %d", what, c.UserID, i))
		}
		go func() {
			for _, text := range texts {
				if err := c.send(room, text); err != nil {
					failed <- fmt.Errorf("%s: %w", text, err)
					return
				}
			}
			failed <- nil
		}()
		return texts, failed
	}
	fromA, errA := say(a)
	fromB, errB := say(b)
	must(t, <-errA)
	must(t, <-errB)
	b.wait(fromA)
	a.wait(fromB)
}

func TestEncryptedConversationOverFederation(t *testing.T) {
	pair(t, arrangements, func(t *testing.T, sa, sb *server) {
		ctx := t.Context()
		began := time.Now()
		done := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
		alice, bob := newClient(t, sa, "alice"), newClient(t, sb, "bob")
		alice.crossSign()
		bob.crossSign()
		done("accounts and keys")

		res, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{
			Name: "a room", Preset: "private_chat", Invite: []id.UserID{bob.UserID},
			InitialState: []*event.Event{{
				Type:    event.StateEncryption,
				Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}},
			}},
		})
		must(t, err)
		room := res.RoomID
		waitFor(t, 30*time.Second, "bob's invite", func() bool { return bob.invited(room) })
		_, err = bob.JoinRoomByID(ctx, room)
		must(t, err)
		waitFor(t, 30*time.Second, "bob to be seen by alice", func() bool { return alice.sees(room, bob.UserID) })
		waitFor(t, 30*time.Second, "alice to be seen by bob", func() bool { return bob.sees(room, alice.UserID) })

		done("joined")
		keys, err := alice.mach.GetCrossSigningPublicKeys(ctx, bob.UserID)
		must(t, err)
		if keys == nil || keys.MasterKey == "" {
			_, err := alice.mach.FetchKeys(ctx, []id.UserID{bob.UserID}, true)
			must(t, err)
			if keys, err = alice.mach.GetCrossSigningPublicKeys(ctx, bob.UserID); err != nil || keys == nil {
				t.Fatalf("bob's cross-signing keys did not reach alice: %v", err)
			}
		}
		own := bob.mach.GetOwnCrossSigningPublicKeys(ctx)
		if keys.MasterKey != own.MasterKey {
			t.Errorf("alice sees bob's master key %s, it is %s", keys.MasterKey, own.MasterKey)
		}
		converse(t, "at first", messages, room, alice, bob)
		done("conversation")

		sa.stop()
		sb.stop()
		done("stopped")
		sa.start()
		sb.start()
		done("started")
		converse(t, "after a restart", messages, room, alice, bob)
		done("conversation")

		sb.stop()
		done("one stopped")
		var missed []string
		for i := range messages {
			text := fmt.Sprintf("while bob's server is down: %d", i)
			must(t, alice.send(room, text))
			missed = append(missed, text)
		}
		done("messages to one that is away")
		sb.start()
		done("it is back")
		bob.wait(missed)
		done("it has them")
		converse(t, "after the outage", messages, room, alice, bob)
		done("conversation")
		sa.stop()
		sb.stop()
		done("stopped")
	})
}
