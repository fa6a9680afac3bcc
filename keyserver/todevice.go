package keyserver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertSeenSQL = `INSERT INTO to_device_seen (sender, device_id, txn_id, seen_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT (sender, device_id, txn_id) DO NOTHING`
	insertMessageSQL  = `INSERT INTO to_device (pos, user_id, device_id, message) VALUES ($1, $2, $3, $4)`
	selectMessagesSQL = `SELECT pos, message FROM to_device
		WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4 ORDER BY pos LIMIT $5`
	deleteMessagesSQL       = `DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND pos <= $3`
	deleteDeviceMessagesSQL = `DELETE FROM to_device WHERE user_id = $1 AND device_id = $2`
	deleteDeviceSeenSQL     = `DELETE FROM to_device_seen WHERE sender = $1 AND device_id = $2`
)

const eduToDevice = "m.direct_to_device"

// allDevices addresses every device of a user.
const allDevices = id.Device("*")

// toDeviceMessages is user → device → content.
type toDeviceMessages = map[id.User]map[id.Device]json.RawMessage

// directToDevice is the content of m.direct_to_device.
//
// spec: server-server §15 (Send-to-device messaging)
type directToDevice struct {
	Sender    id.User          `json:"sender"`
	Type      string           `json:"type"`
	MessageID string           `json:"message_id"`
	Messages  toDeviceMessages `json:"messages"`
}

// checkMessages bounds what one request may carry.
func checkMessages(msgs toDeviceMessages) error {
	n := 0
	for user, devices := range msgs {
		n += len(devices)
		for dev, content := range devices {
			if len(content) > maxToDeviceBytes {
				return merr.TooLarge("the message for %s %s is larger than %d bytes", user, dev, maxToDeviceBytes)
			}
			if len(content) == 0 || content[0] != '{' {
				return merr.BadJSON("the message for %s %s is not an object", user, dev)
			}
		}
	}
	if n > maxToDeviceTargets {
		return merr.TooLarge("more than %d messages in one request", maxToDeviceTargets)
	}
	return nil
}

// SendToDevice implements api.ToDevice. Messages for other servers are queued
// first, under an ID that follows from the transaction: a request that is
// repeated after a crash in between queues them again, and the other server
// drops the second copy.
func (s *Server) SendToDevice(ctx context.Context, req api.SendToDevice) error {
	if err := checkMessages(req.Messages); err != nil {
		return err
	}
	local := toDeviceMessages{}
	remote := map[id.Server]toDeviceMessages{}
	for user, devices := range req.Messages {
		if s.local(user) {
			local[user] = devices
			continue
		}
		server := user.Server()
		if remote[server] == nil {
			remote[server] = toDeviceMessages{}
		}
		remote[server][user] = devices
	}
	messageID := messageID(req)
	for server, msgs := range remote {
		content, err := json.Marshal(directToDevice{Sender: req.Sender, Type: req.Type, MessageID: messageID, Messages: msgs})
		if err != nil {
			return fmt.Errorf("keyserver: to-device: %w", err)
		}
		err = s.Outbound.SendEDU(ctx, fedapi.EDU{Type: eduToDevice, Content: content, Destinations: []id.Server{server}, Durable: true})
		if err != nil {
			return err
		}
	}
	return s.deliver(ctx, delivery{
		from: string(req.Sender), device: string(req.Device), txn: req.Type + "/" + req.TxnID,
		sender: req.Sender, typ: req.Type, messages: local,
	})
}

// messageID is the same for each repetition of a request.
func messageID(req api.SendToDevice) string {
	h := sha256.New()
	for _, part := range []string{string(req.Sender), string(req.Device), req.Type, req.TxnID} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

// ReceiveToDevice implements api.ToDevice.
func (s *Server) ReceiveToDevice(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var edu directToDevice
	if err := json.Unmarshal(content, &edu); err != nil {
		return merr.BadJSON("%s: %v", eduToDevice, err)
	}
	if edu.Sender.Server() != origin {
		return merr.Forbidden("%s sends a message of a user of another server", origin)
	}
	if edu.MessageID == "" {
		return merr.MissingParam("%s without message_id", eduToDevice)
	}
	if err := checkMessages(edu.Messages); err != nil {
		return err
	}
	for user := range edu.Messages {
		if !s.local(user) {
			delete(edu.Messages, user)
		}
	}
	return s.deliver(ctx, delivery{
		from: string(origin), txn: edu.MessageID, sender: edu.Sender, typ: edu.Type, messages: edu.Messages,
	})
}

// delivery is one request's messages for local devices; from, device and txn
// name the request.
type delivery struct {
	from, device, txn string
	sender            id.User
	typ               string
	messages          toDeviceMessages
}

// message is what a client sees in /sync.
type message struct {
	Content json.RawMessage `json:"content"`
	Sender  id.User         `json:"sender"`
	Type    string          `json:"type"`
}

// deliver stores a request's messages, once.
func (s *Server) deliver(ctx context.Context, d delivery) error {
	return s.toDevice.Update(ctx, func(tx *sqldb.Tx) error {
		res, err := tx.Exec(ctx, insertSeenSQL, d.from, d.device, d.txn, s.Now().UnixMilli())
		if err != nil {
			return fmt.Errorf("keyserver: noting to-device transaction: %w", err)
		}
		fresh, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("keyserver: noting to-device transaction: %w", err)
		}
		if fresh == 0 {
			return nil
		}
		return s.insertMessages(ctx, tx, d)
	})
}

func (s *Server) insertMessages(ctx context.Context, tx *sqldb.Tx, d delivery) error {
	type row struct {
		user id.User
		dev  id.Device
		json []byte
	}
	var rows []row
	users := make([]string, 0, len(d.messages))
	for user, devices := range d.messages {
		users = append(users, string(user))
		devs, err := listDevices(ctx, tx, user)
		if err != nil {
			return err
		}
		for _, dev := range devs {
			content, ok := devices[dev.id]
			if !ok {
				content, ok = devices[allDevices]
			}
			if !ok {
				continue
			}
			raw, err := json.Marshal(message{Content: content, Sender: d.sender, Type: d.typ})
			if err != nil {
				return fmt.Errorf("keyserver: to-device message: %w", err)
			}
			rows = append(rows, row{user, dev.id, raw})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	first, err := stream.Advance(ctx, tx, stream.ToDevice, int64(len(rows)))
	if err != nil {
		return err
	}
	for i, r := range rows {
		if _, err := tx.Exec(ctx, insertMessageSQL, first+int64(i), string(r.user), string(r.dev), r.json); err != nil {
			return fmt.Errorf("keyserver: storing to-device message: %w", err)
		}
	}
	last := first + int64(len(rows)) - 1
	tx.OnCommit(func() {
		bus.PublishUpdate(s.Bus, bus.Update{Stream: stream.ToDevice, Pos: last, Users: users})
	})
	return nil
}

// ListMessages implements api.ToDevice.
func (s *Server) ListMessages(ctx context.Context, user id.User, dev id.Device, from, to int64, limit int) ([]json.RawMessage, int64, error) {
	rows, err := s.DB.Query(ctx, selectMessagesSQL, string(user), string(dev), from, to, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("keyserver: reading to-device messages: %w", err)
	}
	defer rows.Close()
	var msgs []json.RawMessage
	last := to
	for rows.Next() {
		var raw []byte
		var pos int64
		if err := rows.Scan(&pos, &raw); err != nil {
			return nil, 0, fmt.Errorf("keyserver: reading to-device messages: %w", err)
		}
		msgs = append(msgs, raw)
		if len(msgs) == limit {
			last = pos // there may be more after it
		}
	}
	return msgs, last, rows.Err()
}

// DeleteMessages implements api.ToDevice.
func (s *Server) DeleteMessages(ctx context.Context, user id.User, dev id.Device, upTo int64) error {
	if _, err := s.DB.Exec(ctx, deleteMessagesSQL, string(user), string(dev), upTo); err != nil {
		return fmt.Errorf("keyserver: deleting to-device messages: %w", err)
	}
	return nil
}
