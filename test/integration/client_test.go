package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// client is a logged-in device that encrypts. It syncs until the test ends.
type client struct {
	*mautrix.Client
	t    *testing.T
	mach *crypto.OlmMachine
	done chan struct{}

	mu        sync.Mutex
	texts     []string                    // decrypted messages, in order of arrival
	seen      map[id.EventID]bool         // decrypted
	pending   map[id.EventID]*event.Event // waiting for their keys
	order     []id.EventID                // of pending
	invites   map[id.RoomID]bool
	joined    map[id.RoomID]map[id.UserID]bool
	lastError error
}

// patientSyncer tries again soon, because servers come and go in these tests.
type patientSyncer struct {
	*mautrix.DefaultSyncer
	c *client
}

func (s patientSyncer) OnFailedSync(_ *mautrix.RespSync, err error) (time.Duration, error) {
	s.c.mu.Lock()
	s.c.lastError = err
	s.c.mu.Unlock()
	if errors.Is(err, mautrix.MUnknownToken) {
		return 0, err
	}
	return 100 * time.Millisecond, nil
}

// newStateStore makes a store in memory; the library's constructor forgets one of
// its maps.
func newStateStore() mautrix.StateStore {
	store := mautrix.NewMemoryStateStore().(*mautrix.MemoryStateStore)
	store.JoinRules = map[id.RoomID]*event.JoinRulesEventContent{}
	return store
}

// newClient registers a user and sets its encryption up.
func newClient(t *testing.T, s *server, name string) *client {
	t.Helper()
	ctx := t.Context()
	cli, err := mautrix.NewClient(s.base, "", "")
	must(t, err)
	cli.Log = zerolog.Nop()
	res, err := cli.RegisterDummy(ctx, &mautrix.ReqRegister{Username: name, Password: "correct horse"})
	must(t, err)
	cli.UserID, cli.DeviceID, cli.AccessToken = res.UserID, res.DeviceID, res.AccessToken
	cli.StateStore = newStateStore()
	c := &client{
		Client: cli, t: t, done: make(chan struct{}), seen: map[id.EventID]bool{},
		pending: map[id.EventID]*event.Event{}, invites: map[id.RoomID]bool{}, joined: map[id.RoomID]map[id.UserID]bool{},
	}
	log := zerolog.Nop()
	c.mach = crypto.NewOlmMachine(cli, &log, crypto.NewMemoryStore(nil), cli.StateStore.(crypto.StateStore))
	must(t, c.mach.Load(ctx))
	must(t, c.mach.ShareKeys(ctx, 0))
	c.listen()
	go func() {
		defer close(c.done)
		err := cli.SyncWithContext(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx.Err() == nil {
			c.lastError = err
		}
	}()
	t.Cleanup(func() {
		<-c.done
		if t.Failed() {
			t.Logf("last error of %s: %v", c.UserID, c.lastError)
		}
	})
	return c
}

// listen arranges what happens to what sync brings.
func (c *client) listen() {
	syncer := patientSyncer{mautrix.NewDefaultSyncer(), c}
	c.Syncer = syncer
	syncer.OnEvent(c.Client.StateStoreSyncHandler)
	syncer.OnSync(c.mach.ProcessSyncResponse)
	syncer.OnEventType(event.StateMember, c.mach.HandleMemberEvent)
	syncer.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		membership := ev.Content.AsMember().Membership
		if id.UserID(ev.GetStateKey()) == c.UserID && membership == event.MembershipInvite {
			c.invites[ev.RoomID] = true
		}
		if c.joined[ev.RoomID] == nil {
			c.joined[ev.RoomID] = map[id.UserID]bool{}
		}
		c.joined[ev.RoomID][id.UserID(ev.GetStateKey())] = membership == event.MembershipJoin
	})
	syncer.OnEventType(event.EventEncrypted, func(ctx context.Context, ev *event.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.take(ev)
		c.decrypt(ctx)
	})
	// A timeline that is limited leaves out what a client has to page for.
	syncer.OnSync(func(ctx context.Context, res *mautrix.RespSync, since string) bool {
		for room, joined := range res.Rooms.Join {
			if joined.Timeline.Limited && since != "" {
				c.fill(ctx, room, joined.Timeline.PrevBatch)
			}
		}
		return true
	})
	// Keys may come after what they decrypt.
	syncer.OnSync(func(ctx context.Context, _ *mautrix.RespSync, _ string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.decrypt(ctx)
		return true
	})
}

// take notes an encrypted message; it tells whether it is new. mu is held.
func (c *client) take(ev *event.Event) bool {
	if c.seen[ev.ID] || c.pending[ev.ID] != nil || ev.Sender == c.UserID {
		return false
	}
	c.pending[ev.ID] = ev
	c.order = append(c.order, ev.ID)
	return true
}

// fill reads back from a gap in a timeline until it meets what it knows.
func (c *client) fill(ctx context.Context, room id.RoomID, from string) {
	for from != "" {
		page, err := c.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 100)
		c.mu.Lock()
		if err != nil {
			c.lastError = err
			c.mu.Unlock()
			return
		}
		encrypted, fresh := 0, 0
		for _, ev := range page.Chunk {
			if ev.Type.Type != event.EventEncrypted.Type || ev.Sender == c.UserID {
				continue
			}
			encrypted++
			ev.RoomID, ev.Type.Class = room, event.MessageEventType
			if err := ev.Content.ParseRaw(ev.Type); err != nil {
				c.lastError = err
			} else if c.take(ev) {
				fresh++
			}
		}
		c.mu.Unlock()
		if encrypted > 0 && fresh == 0 {
			return
		}
		from = page.End
	}
}

// decrypt tries what waits. mu is held.
func (c *client) decrypt(ctx context.Context) {
	left := c.order[:0]
	for _, evID := range c.order {
		ev := c.pending[evID]
		plain, err := c.mach.DecryptMegolmEvent(ctx, ev)
		if err != nil {
			c.lastError = fmt.Errorf("decrypting %s: %w", evID, err)
			left = append(left, evID)
			continue
		}
		delete(c.pending, evID)
		c.seen[evID] = true
		c.texts = append(c.texts, plain.Content.AsMessage().Body)
	}
	c.order = left
}

// crossSign makes cross-signing keys and signs the device with them.
func (c *client) crossSign() {
	c.t.Helper()
	ctx := c.t.Context()
	_, _, err := c.mach.GenerateAndUploadCrossSigningKeys(ctx, nil, "")
	must(c.t, err)
	must(c.t, c.mach.SignOwnDevice(ctx, c.mach.OwnIdentity()))
	must(c.t, c.mach.SignOwnMasterKey(ctx))
}

// send encrypts a message for everybody in the room and sends it.
func (c *client) send(room id.RoomID, text string) error {
	ctx := c.t.Context()
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	enc, err := c.mach.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if errors.Is(err, crypto.NoGroupSession) || errors.Is(err, crypto.SessionExpired) || errors.Is(err, crypto.SessionNotShared) {
		users, err := c.Client.StateStore.GetRoomJoinedOrInvitedMembers(ctx, room)
		if err != nil {
			return err
		}
		if err := c.mach.ShareGroupSession(ctx, room, users); err != nil {
			return err
		}
		if enc, err = c.mach.EncryptMegolmEvent(ctx, room, event.EventMessage, content); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	_, err = c.SendMessageEvent(ctx, room, event.EventEncrypted, enc)
	return err
}

// has tells whether all texts were decrypted, each once.
func (c *client) has(texts []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]int{}
	for _, t := range c.texts {
		count[t]++
	}
	for _, t := range texts {
		if count[t] != 1 {
			return false
		}
	}
	return true
}

// missing describes what has() lacks.
func (c *client) missing(texts []string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]int{}
	for _, t := range c.texts {
		count[t]++
	}
	out := ""
	for _, t := range texts {
		if count[t] != 1 {
			out += fmt.Sprintf(" %q×%d", t, count[t])
		}
	}
	return fmt.Sprintf("%s lacks%s; %d wait for keys; last error %v", c.UserID, out, len(c.order), c.lastError)
}

// wait waits until all texts were decrypted.
func (c *client) wait(texts []string) {
	c.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !c.has(texts) {
		if time.Now().After(deadline) {
			c.t.Fatal(c.missing(texts))
		}
		<-tick.C
	}
}

func (c *client) invited(room id.RoomID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.invites[room]
}

func (c *client) sees(room id.RoomID, user id.UserID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joined[room][user]
}
