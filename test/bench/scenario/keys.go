package scenario

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/tidwall/gjson"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/test/bench/load"
)

const (
	// uploadsPerUser and keysPerUpload make the one-time keys of a device; clients keep some 50 there.
	uploadsPerUser, keysPerUpload = 5, 10
	// peersPerRequest is how many devices a query, a claim or a message is about.
	peersPerRequest = 10
	// queriesPerUser and messagesPerUser are how often a user asks for keys, and sends to devices.
	queriesPerUser, messagesPerUser = 10, 10

	signedCurve = "signed_curve25519"
	keysPath    = "/_matrix/client/v3/keys/"
)

// keys measures what encryption needs of a server: uploads, queries and claims of keys, and messages to devices. The users share
// a room, as those who ask for each other's keys do.
func keys(ctx context.Context, e *Env) error {
	users, err := e.fresh(ctx, e.Sizes.KeyUsers)
	if err != nil {
		return err
	}
	room, err := users[0].CreateRoom(ctx, load.NewRoom{Preset: "public_chat", Encrypted: true})
	if err != nil {
		return err
	}
	devices := make([]*device, len(users))
	for i, u := range users {
		if i > 0 {
			if err := u.Join(ctx, room); err != nil {
				return err
			}
		}
		if devices[i], err = newDevice(u); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context, *Env, []*device) error{uploadKeys, queryKeys, claimKeys, toDevice} {
		if err := step(ctx, e, devices); err != nil {
			return err
		}
	}
	return nil
}

// device is a user's device with its keys.
type device struct {
	*load.User
	key     ed25519.PrivateKey
	uploads [][]byte
	// identity is the signed device keys object; oneTime holds each one-time key under its name.
	identity []byte
	oneTime  map[string][]byte
}

// newDevice makes the keys of a user's device, signed as clients sign them.
func newDevice(u *load.User) (*device, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &device{User: u, key: private, oneTime: make(map[string][]byte)}
	d.identity, err = d.sign(map[string]any{
		"user_id": u.ID, "device_id": u.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": map[string]string{"curve25519:" + u.Device: randomKey(), "ed25519:" + u.Device: canonical.EncodeBase64(public)},
	})
	if err != nil {
		return nil, err
	}
	for n := range uploadsPerUser {
		oneTime := make(map[string]json.RawMessage)
		for k := range keysPerUpload {
			name := signedCurve + ":AAA" + strconv.Itoa(n*keysPerUpload+k)
			if oneTime[name], err = d.sign(map[string]any{"key": randomKey()}); err != nil {
				return nil, err
			}
			d.oneTime[name] = oneTime[name]
		}
		body := map[string]any{"one_time_keys": oneTime}
		if n == 0 {
			body["device_keys"] = json.RawMessage(d.identity)
		}
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		d.uploads = append(d.uploads, data)
	}
	return d, nil
}

func (d *device) sign(object map[string]any) ([]byte, error) {
	data, err := canonical.Marshal(object)
	if err != nil {
		return nil, err
	}
	return canonical.SignJSON(data, d.ID, id.KeyID("ed25519:"+d.Device), d.key)
}

// randomKey looks like a Curve25519 key to whoever does not compute with it.
func randomKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // crypto/rand never fails
	return canonical.EncodeBase64(b)
}

// peers are the devices that the device at i deals with in its turn n.
func peers(devices []*device, i, n int) []*device {
	count := min(peersPerRequest, len(devices)-1)
	out := make([]*device, 0, count)
	for k := range count {
		out = append(out, devices[(i+1+(n*count+k)%(len(devices)-1))%len(devices)])
	}
	return out
}

func uploadKeys(ctx context.Context, e *Env, devices []*device) error {
	m := e.meter("keys-upload")
	m.start(ctx)
	err := parallel(ctx, creators, len(devices), func(ctx context.Context, _, i int) error {
		for n, body := range devices[i].uploads {
			m.Do(func() error {
				count, err := devices[i].UploadKeys(ctx, body, signedCurve)
				if want := int64((n + 1) * keysPerUpload); err == nil && count != want {
					err = fmt.Errorf("%s has %d one-time keys after upload %d, not %d", devices[i].ID, count, n, want)
				}
				return err
			})
		}
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	return err
}

func queryKeys(ctx context.Context, e *Env, devices []*device) error {
	m := e.meter("keys-query")
	m.start(ctx)
	err := parallel(ctx, creators, len(devices)*queriesPerUser, func(ctx context.Context, _, i int) error {
		asker, asked := devices[i%len(devices)], peers(devices, i%len(devices), i/len(devices))
		wanted := make(map[string][]string)
		for _, d := range asked {
			wanted[d.ID] = []string{}
		}
		body, err := json.Marshal(map[string]any{"device_keys": wanted})
		if err != nil {
			return err
		}
		m.Do(func() error {
			got, err := asker.Read(ctx, http.MethodPost, keysPath+"query", body)
			if err != nil {
				return err
			}
			return checkIdentities(got, asked)
		})
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	return err
}

// checkIdentities compares the answer of a query with what was uploaded; the server may add "unsigned".
func checkIdentities(got gjson.Result, asked []*device) error {
	for _, d := range asked {
		found := member(member(got.Get("device_keys"), d.ID), d.Device)
		if !found.Exists() {
			return fmt.Errorf("query: no keys of %s %s", d.ID, d.Device)
		}
		raw, err := canonical.Canonical([]byte(found.Raw))
		if err != nil {
			return err
		}
		public, ok := d.key.Public().(ed25519.PublicKey)
		if !ok {
			return errors.New("query: no Ed25519 key")
		}
		if err := canonical.VerifyJSON(raw, d.ID, id.KeyID("ed25519:"+d.Device), public); err != nil {
			return fmt.Errorf("query: the keys of %s are not those that it signed: %w", d.ID, err)
		}
	}
	return nil
}

// member finds a member by a name that may hold the dots that paths are made of.
func member(object gjson.Result, name string) (found gjson.Result) {
	object.ForEach(func(key, value gjson.Result) bool {
		if key.Str == name {
			found = value
		}
		return key.Str != name
	})
	return found
}

// claimKeys takes one-time keys until there are none: each may be handed out once.
func claimKeys(ctx context.Context, e *Env, devices []*device) error {
	var mu sync.Mutex
	claimed := make(map[string]map[string]bool) // by user, the keys' names
	m := e.meter("keys-claim")
	// Each request takes one key of each of its devices, so the keys last for as many requests, and it is known for how many.
	perUser := uploadsPerUser * keysPerUpload / max(1, min(peersPerRequest, len(devices)-1))
	m.start(ctx)
	err := parallel(ctx, creators, len(devices)*perUser, func(ctx context.Context, _, i int) error {
		claimer, asked := devices[i%len(devices)], peers(devices, i%len(devices), i/len(devices))
		wanted := make(map[string]map[string]string)
		for _, d := range asked {
			wanted[d.ID] = map[string]string{d.Device: signedCurve}
		}
		body, err := json.Marshal(map[string]any{"one_time_keys": wanted})
		if err != nil {
			return err
		}
		m.Do(func() error {
			got, err := claimer.Read(ctx, http.MethodPost, keysPath+"claim", body)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return checkClaim(got, asked, claimed)
		})
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	return err
}

// checkClaim checks one answer: every asked device that still had keys gave one that it uploaded and that nobody got before.
func checkClaim(got gjson.Result, asked []*device, claimed map[string]map[string]bool) error {
	for _, d := range asked {
		if claimed[d.ID] == nil {
			claimed[d.ID] = make(map[string]bool)
		}
		n := 0
		var err error
		member(member(got.Get("one_time_keys"), d.ID), d.Device).ForEach(func(name, key gjson.Result) bool {
			n++
			raw, canonErr := canonical.Canonical([]byte(key.Raw))
			switch {
			case canonErr != nil:
				err = canonErr
			case claimed[d.ID][name.Str]:
				err = fmt.Errorf("claim: %s of %s was handed out twice", name.Str, d.ID)
			case !bytes.Equal(raw, d.oneTime[name.Str]):
				err = fmt.Errorf("claim: %s of %s is not the key that was uploaded", name.Str, d.ID)
			}
			claimed[d.ID][name.Str] = true
			return err == nil
		})
		if err != nil {
			return err
		}
		if n != 1 && len(claimed[d.ID]) < len(d.oneTime) {
			return fmt.Errorf("claim: %d keys of %s at once, with %d of %d claimed", n, d.ID, len(claimed[d.ID]), len(d.oneTime))
		}
	}
	return nil
}

// toDevice measures messages to devices and their arrival in /sync: each once, and those of a sender in order.
func toDevice(ctx context.Context, e *Env, devices []*device) error {
	const kind = "bench.message"
	since := make([]string, len(devices))
	var err error
	for i, d := range devices {
		if since[i], err = d.Position(ctx, ""); err != nil {
			return err
		}
	}
	m := e.meter("todevice-send")
	m.start(ctx)
	err = parallel(ctx, creators, len(devices), func(ctx context.Context, _, i int) error {
		for n := range messagesPerUser {
			messages := make(map[string]map[string]json.RawMessage)
			for _, d := range peers(devices, i, 0) {
				messages[d.ID] = map[string]json.RawMessage{d.Device: message(i, n, e.Sizes.ContentBytes)}
			}
			body, err := json.Marshal(map[string]any{"messages": messages})
			if err != nil {
				return err
			}
			m.Do(func() error { return devices[i].SendToDevices(ctx, kind, body) })
		}
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	if err != nil {
		return err
	}
	want := expected(devices)
	m = e.meter("todevice-sync")
	m.start(ctx)
	err = parallel(ctx, creators, len(devices), func(ctx context.Context, _, i int) error {
		return receive(ctx, m, devices[i], since[i], want[i])
	})
	m.stop(ctx)
	m.finish()
	return err
}

// expected lists for each device the senders whose messages it must get.
func expected(devices []*device) [][]int {
	want := make([][]int, len(devices))
	for i := range devices {
		for _, d := range peers(devices, i, 0) {
			at := slices.Index(devices, d)
			want[at] = append(want[at], i)
		}
	}
	return want
}

// receiveTimeout is how long a sync waits for messages that are still under way, in milliseconds.
const receiveTimeout = 10_000

// receive syncs until all is there, and once more, because what was acknowledged must not come again.
func receive(ctx context.Context, m *Meter, d *device, since string, senders []int) error {
	got := make(map[int][]int)
	for missing, last := len(senders)*messagesPerUser, false; !last; {
		timeout := receiveTimeout
		if missing == 0 {
			timeout, last = 0, true
		}
		m.Do(func() (err error) {
			defer func() { last = last || err != nil }()
			a, err := d.Sync(ctx, since, timeout)
			if err != nil {
				return err
			}
			defer a.Release()
			events := a.Get("to_device.events").Array()
			for _, e := range events {
				sender, number, err := parseMessage(e.Get("content.body").Str)
				if err != nil {
					return err
				}
				got[sender] = append(got[sender], number)
			}
			next, err := load.NextBatch(a)
			// An answer without messages is about something else; one that is also no progress has waited for nothing.
			last = last || (len(events) == 0 && next == since)
			missing = max(0, missing-len(events))
			since = next
			return err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(got) != len(senders) {
		m.Fail(fmt.Errorf("%s got messages of %d senders, not %d", d.ID, len(got), len(senders)))
	}
	for _, s := range senders {
		numbers := make([]int, messagesPerUser)
		for n := range numbers {
			numbers[n] = n
		}
		if !slices.Equal(got[s], numbers) {
			m.Fail(fmt.Errorf("%s got the messages %v of sender %d, not 0 to %d", d.ID, got[s], s, messagesPerUser-1))
		}
	}
	return nil
}
